"""The master as daemons and clients see it."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from store.control.arbiter import ConfigIs, GetConfig, Query, QueryReply, Refresh, Register, Registered
from store.control.channel import Quiet, dial
from store.control.joining import join
from store.control.messages import (
    AuditIs,
    AuditTail,
    CaIssue,
    CertificateIs,
    ClientCreate,
    ClientIs,
    ClientList,
    ClientRevoke,
    ClientsAre,
    ConfigsAre,
    DeviceList,
    DevicesAre,
    Done,
    GetKeys,
    GetMap,
    GetStatus,
    GetTicket,
    GroupsOf,
    Heartbeat,
    HeartbeatOk,
    Hello,
    ImageClose,
    ImageCreate,
    ImageIs,
    ImageList,
    ImageOpen,
    ImageOpened,
    ImageRemove,
    ImageRenew,
    ImageRenewed,
    ImagesAre,
    ImageStat,
    JoinTicketCreate,
    JoinTicketIs,
    KeyEpochIs,
    KeyRotate,
    MapIs,
    Mode,
    PoolCreate,
    PoolIs,
    PoolList,
    PoolRemove,
    PoolsAre,
    PoolUsage,
    StatusIs,
    TicketIs,
    Welcome,
)
from store.crypto.identity import MASTER
from store.crypto.keys import derive_ticket_key
from store.crypto.ticket import Cap, Right, open_ticket
from store.crypto.tls import Credentials, client_context
from store.errors import ConfigError, Status, StoreError
from store.ids import Who, group_id
from store.limits import DEVICE_SUSPECT_S, KEY_ROTATION_S, MASTER_TICK_S
from tests.master.running import (
    GIB,
    MovableClock,
    PlayedClient,
    PlayedDaemon,
    admin_credentials,
    daemon_credentials,
    daemons_of,
    master_in,
    run,
)

MAIN = PoolCreate(name="main", replicas=3, groups=16)


async def refused(status: Status, match: str, call: object) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        await call  # type: ignore[misc]
    assert caught.value.status == status


def test_a_pool_needs_devices(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            [first] = await daemons_of(master, admin, 1)
            text = "needs 3 devices, 1 is registered"
            await refused(Status.BUSY, text, admin.connection.call(MAIN, PoolIs))
            waiting = asyncio.ensure_future(admin.connection.call(msgspec.structs.replace(MAIN, wait=20.0), PoolIs))
            others = [PlayedDaemon(number, first.credentials) for number in (2, 3)]
            for daemon in others:
                await daemon.register(master)
            pool = (await waiting).pool
            assert (pool.number, pool.groups, pool.complete, pool.degraded) == (1, 16, 16, 0)
            for daemon in (first, *others):
                await daemon.until_it_has(16)
                assert daemon.configs.keys() == {group_id(1, index) for index in range(16)}
            leaders = [config.primary.device for config in first.configs.values()]
            assert {leaders.count(daemon.device) for daemon in (first, *others)} == {5, 6}
            route = (await admin.until_map(lambda drawn: drawn.pool("main"))).route(group_id(1, 3))
            config = first.configs[group_id(1, 3)]
            assert route is not None and route.primary is not None
            assert (route.primary.id, route.epoch) == (config.primary.device, config.epoch)
            assert {device.id for device in route.in_sync} == set(config.members)

    run(scenario())


def test_bad_pools_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            await daemons_of(master, admin, 3)
            for changed, status, match in (
                ({"name": "a/b"}, Status.INVALID, "no pool name"),
                ({"replicas": 0}, Status.INVALID, "1 to 8 copies"),
                ({"groups": 65537}, Status.INVALID, "1 to 65536 groups"),
                ({"min_write": 4}, Status.INVALID, "min_write"),
                ({"replicas": 4}, Status.BUSY, "needs 4 devices, 3 are registered"),
                ({"devices": 5}, Status.BUSY, "needs 5 devices, 3 are registered"),
            ):
                await refused(status, match, admin.connection.call(msgspec.structs.replace(MAIN, **changed), PoolIs))
            await admin.connection.call(MAIN, PoolIs)
            await refused(Status.EXISTS, "there is a pool 'main' already", admin.connection.call(MAIN, PoolIs))
            await refused(Status.NOT_FOUND, "no pool 'x'", admin.connection.call(PoolRemove(name="x"), Done))

    run(scenario())


def test_removing_a_pool(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            daemons = await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            calls = master.clients.calls
            removing = asyncio.ensure_future(admin.connection.call(PoolRemove(name="main"), Done))
            while master.clients.calls == calls:
                await asyncio.wait({removing}, timeout=0.01)
            for daemon in daemons:  # it waits for what they hold now
                assert not removing.done()
                await daemon.beat(PoolUsage(1, 10, 40_960))
            await refused(Status.EXISTS, "0 images and 10 objects", removing)
            await admin.connection.call(ImageCreate(pool="main", name="book", size=GIB), ImageIs)
            [pool] = (await admin.connection.call(PoolList(), PoolsAre)).pools
            assert (pool.images, pool.objects, pool.bytes) == (1, 10, 40_960)
            remove = PoolRemove(name="main")
            await refused(Status.EXISTS, "1 images and 10 objects", admin.connection.call(remove, Done))
            opening = ImageOpen(pool="main", name="book", mode=Mode.WRITE, holder="nbd")
            lock = await admin.connection.call(opening, ImageOpened)
            forced = PoolRemove(name="main", force=True)
            await refused(Status.CONFLICT, "open for writing by nbd", admin.connection.call(forced, Done))
            await admin.connection.call(ImageClose(id=lock.image.id, generation=lock.generation), Done)
            await admin.connection.call(forced, Done)
            assert (await admin.connection.call(ImageList(), ImagesAre)).images == ()
            for listener in (*daemons, admin):
                # How devices know that the groups are gone.
                await listener.until_map(lambda drawn: drawn.next_pool == 2 and not drawn.pools)
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            daemons = await daemons_of(master, admin, 3)
            assert all(not daemon.answer.configs for daemon in daemons)
            assert (await admin.connection.call(MAIN, PoolIs)).pool.number == 2

    run(scenario())


def test_proposals_are_decided_durable_and_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            daemons = await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            for daemon in daemons:
                await daemon.until_it_has(16)
            group, config = next(iter(daemons[0].configs.items()))
            by_device = {daemon.device: daemon for daemon in daemons}
            primary = by_device[config.primary.device]
            out = next(who for who in config.in_sync if who != config.primary)
            rest = tuple(who for who in config.in_sync if who != out)
            new = msgspec.structs.replace(config, in_sync=rest, epoch=config.epoch + 1)
            primary.say(primary.cas(group, "shrink", new), GetConfig(group_id(1, 15)))
            for daemon in daemons:
                await daemon.until_above(group, config.order)
                assert daemon.configs[group].in_sync == rest
            commits = master.cluster.ledger.commits
            many = [
                primary.cas(each, "touch", held)
                for each, held in primary.configs.items()
                if held.primary == primary.who and each != group
            ]
            primary.say(*many)
            for cas in many:
                await primary.until_above(cas.group, cas.expected)
            assert len(many) >= 4 and master.cluster.ledger.commits <= commits + 2  # one for the batch, one for the map
            out_daemon = by_device[out.device]
            out_daemon.say(out_daemon.cas(group, "touch", new))  # not in sync any more: nothing changes
            out_daemon.decided.clear()
            out_daemon.say(GetConfig(group))
            await out_daemon.until(lambda: out_daemon.decided)
            assert out_daemon.configs[group].in_sync == rest
            [pool] = (await admin.connection.call(PoolList(), PoolsAre)).pools
            assert (pool.complete, pool.degraded) == (15, 1)
            kept = daemons[0].configs[group]
        async with master_in(tmp_path) as master:
            again = PlayedDaemon(1, daemons[0].credentials)
            await again.register(master)
            assert again.configs[group] == kept
            again.configs.clear()
            again.say(Refresh(again.device, ((group, kept.order_token),)))
            await again.until(lambda: len(again.configs) == 15)

    run(scenario())


def test_claims(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            [daemon] = await daemons_of(master, admin, 1)
            assert daemon.answer.answer == Registered(1001, True, 0, 1)
            daemon.connection.close()
            await daemon.connection.closed
            stranger = PlayedDaemon(1, daemon.credentials)  # an old image of the disk: it lacks the known life
            stranger.who = Who(stranger.device, 2000)
            answer = await stranger.register(master, claim=Register(stranger.device, (7,), 2000))
            assert answer.answer == Registered(2000, False, 1001, 1)
            stranger.say(Register(stranger.device, (), 2001, fresh=1001))
            await stranger.until(lambda: stranger.decided)
            assert stranger.decided == [Registered(2001, True, 1001, 1)]

    run(scenario())


def test_who_may_register(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            [daemon] = await daemons_of(master, admin, 1)
            twin = PlayedDaemon(1, daemon.credentials)
            twin.who = Who(twin.device, 2000)
            await refused(Status.CONFLICT, "served by another process", twin.register(master))
            same = PlayedDaemon(1, daemon.credentials)  # the same process on a new connection
            await same.register(master)
            await daemon.connection.closed
            foreign = PlayedDaemon(2, daemon.credentials)
            await refused(Status.DENIED, "belongs to cluster 78787878", foreign.register(master, cluster=b"x" * 16))
            silent = await dial(master.peer_address, client_context(daemon.credentials), MASTER, Quiet())
            await refused(Status.INVALID, "register first", silent.call(Heartbeat(used=1, free=1), HeartbeatOk))

    run(scenario())


def test_roles_are_kept_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            credentials = await daemon_credentials(admin)
            wrong = await dial(master.address, client_context(credentials), MASTER, Quiet())
            with pytest.raises(StoreError):
                await wrong.call(Hello(), Welcome)
            intruder = PlayedDaemon(1, admin_credentials(tmp_path))
            with pytest.raises(StoreError):
                await intruder.register(master)
            assert master.refused["role"] == 2
            assert (await admin.connection.call(DeviceList(), DevicesAre)).devices == ()

    run(scenario())


def test_one_port_serves_both(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path, peer_listen=None) as master:
            assert master.address == master.peer_address
            admin = await PlayedClient.admin(master, tmp_path)
            [daemon] = await daemons_of(master, admin, 1)
            assert (await daemon.beat()).key_epoch == 1
            await refused(Status.UNSUPPORTED, "not for daemons", daemon.connection.call(GetStatus(), StatusIs))
            beat = Heartbeat(used=1, free=1)
            await refused(Status.UNSUPPORTED, "not for clients", admin.connection.call(beat, HeartbeatOk))

    run(scenario())


def test_tickets_and_their_keys(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            daemons = await daemons_of(master, admin, 2)
            given = await admin.connection.call(GetTicket(), TicketIs)
            ticket = open_ticket(given.ticket)
            assert (ticket.client, ticket.cluster) == ("admin", master.cluster.id)
            for daemon in daemons:
                secret = daemon.keys.secret(ticket.key_epoch)
                assert secret is not None
                assert given.keys[daemon.device] == derive_ticket_key(secret, given.ticket)
            late = PlayedDaemon(3, daemons[0].credentials)
            await late.register(master)
            await admin.until_map(lambda drawn: drawn.device(late.device))
            more = await admin.connection.call(GetKeys(given.ticket), TicketIs)
            secret = late.keys.secret(ticket.key_epoch)
            assert secret is not None and more.keys[late.device] == derive_ticket_key(secret, given.ticket)
            assert (await admin.connection.call(GetTicket(given.serial), TicketIs)).serial == given.serial
            assert (await admin.connection.call(GetTicket(), TicketIs)).serial == given.serial + 1

    run(scenario())


def test_rotation_reaches_everybody(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = MovableClock()
        async with master_in(tmp_path, clock) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            [daemon] = await daemons_of(master, admin, 1)
            before = daemon.keys.secrets()
            assert (await admin.connection.call(KeyRotate(), KeyEpochIs)).key_epoch == 2
            await daemon.until(lambda: daemon.keys.current == 2)
            assert daemon.keys.secret(2) == before.by_epoch[2] and daemon.keys.secret(1) == before.by_epoch[1]
            await admin.until_map(lambda drawn: drawn.key_epoch == 2)
            clock.ahead += KEY_ROTATION_S  # the next tick sees that it is time
            began = time.monotonic()
            await daemon.until(lambda: daemon.keys.current == 3)
            assert time.monotonic() - began < 3 * MASTER_TICK_S + 1
            assert daemon.keys.secret(1) is None
            given = await admin.connection.call(GetTicket(), TicketIs)
            assert given.key_epoch == 3 and given.not_after == clock.wall() + 24 * 3600

    run(scenario())


def test_image_locks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            call = admin.connection.call
            await refused(Status.NOT_FOUND, "no image", call(ImageStat(pool="main", name="book"), ImageIs))
            made = (await call(ImageCreate(pool="main", name="book", size=GIB), ImageIs)).image
            assert made.id != 0 and made.prefix == f"book.{made.id:016x}.".encode() and made.object_size == 4 << 20
            opening = ImageOpen(pool="main", name="book", mode=Mode.WRITE, holder="nbd on homeserver")
            lock = await call(opening, ImageOpened)
            assert (lock.generation, lock.lease) == (1, 30.0)
            await refused(Status.BUSY, "open for writing by nbd on homeserver", call(opening, ImageOpened))
            reader = msgspec.structs.replace(opening, mode=Mode.READ)
            assert (await call(reader, ImageOpened)).generation == 0
            await call(ImageRenew(id=made.id, generation=1), ImageRenewed)
            taken = await call(msgspec.structs.replace(opening, mode=Mode.TAKE), ImageOpened)
            assert taken.generation == 2
            await refused(Status.FENCED, "lock was taken", call(ImageRenew(id=made.id, generation=1), ImageRenewed))
        async with master_in(tmp_path) as master:  # a restart counts as a renewal
            admin = await PlayedClient.admin(master, tmp_path)
            call = admin.connection.call
            await refused(Status.BUSY, "wait (29|30) s", call(opening, ImageOpened))
            await call(ImageRenew(id=made.id, generation=2), ImageRenewed)
            await call(ImageClose(id=made.id, generation=2), Done)
            assert (await call(opening, ImageOpened)).generation == 3
            await refused(Status.BUSY, "open for writing", call(ImageRemove(pool="main", name="book"), Done))
            await call(ImageRemove(pool="main", name="book", generation=3), Done)
            await call(ImageClose(id=made.id, generation=3), Done)
            await refused(Status.NOT_FOUND, "removed", call(ImageRenew(id=made.id, generation=3), ImageRenewed))

    run(scenario())


def test_a_limited_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            await admin.connection.call(msgspec.structs.replace(MAIN, name="other"), PoolIs)
            await admin.connection.call(ImageCreate(pool="main", name="secret", size=GIB), ImageIs)
            caps = (Cap(1, int(Right.data()), b"book"),)
            given = await admin.connection.call(ClientCreate(name="anna", caps=caps), ClientIs)
            credentials = Credentials(given.certificate, given.private_key, given.authority)
            anna = await PlayedClient.connect(master, credentials)
            assert (anna.welcome.client, anna.welcome.caps) == ("anna", caps)
            assert open_ticket((await anna.connection.call(GetTicket(), TicketIs)).ticket).caps == caps
            call = anna.connection.call
            await call(ImageCreate(pool="main", name="book1", size=GIB), ImageIs)
            assert [image.name for image in (await call(ImageList(), ImagesAre)).images] == ["book1"]
            assert [pool.name for pool in (await call(PoolList(), PoolsAre)).pools] == ["main"]
            for message in (
                ImageCreate(pool="main", name="film", size=GIB),
                ImageCreate(pool="other", name="book1", size=GIB),
                ImageStat(pool="main", name="secret"),
                ImageOpen(pool="main", name="secret", mode=Mode.READ),
                msgspec.structs.replace(MAIN, name="mine"),
                PoolRemove(name="main", force=True),
                ClientCreate(name="bert", caps=caps),
                ClientList(),
                ClientRevoke("admin"),
                JoinTicketCreate(role="daemon"),
                CaIssue(role="master"),
                KeyRotate(),
                AuditTail(),
            ):
                await refused(Status.DENIED, "client 'anna' may not", call(message, Done))
            listed = (await admin.connection.call(ClientList(), ClientsAre)).clients
            assert {entry.name: entry.connected for entry in listed} == {"admin": 1, "anna": 1}
            await admin.connection.call(ClientRevoke("anna"), Done)
            await refused(Status.DENIED, "revoked", call(GetTicket(), TicketIs))
            assert master.refused["client"] == 1

    run(scenario())


def test_joining_as_a_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            making = JoinTicketCreate(role="client", name="laptop", caps=(Cap(0, int(Right.READ)),))
            ticket = await admin.connection.call(making, JoinTicketIs)
            joined, credentials = await join(ticket.ticket)
            assert (joined.cluster, joined.masters) == (master.cluster.id, (master.address,))
            laptop = await PlayedClient.connect(master, credentials)
            assert laptop.welcome.client == "laptop"
            await refused(Status.DENIED, "used", join(ticket.ticket))
            assert master.refused["join"] == 1
            issued = await admin.connection.call(CaIssue(role="client", name="stranger"), CertificateIs)
            stranger = Credentials(issued.certificate, issued.private_key, issued.authority)
            await refused(Status.DENIED, "not known here", PlayedClient.connect(master, stranger))

    run(scenario())


def test_status_shows_silent_devices(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = MovableClock()
        async with master_in(tmp_path, clock) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            daemons = await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            clock.ahead += int(DEVICE_SUSPECT_S)
            await daemons[0].beat()
            status = await admin.connection.call(GetStatus(), StatusIs)
            assert [device.state for device in status.devices] == ["up", "suspect", "suspect"]
            assert [(device.groups, device.in_sync) for device in status.devices] == [(16, 16)] * 3
            assert sum(device.primaries for device in status.devices) == 16
            clock.ahead += 20
            devices = (await admin.connection.call(DeviceList(), DevicesAre)).devices
            assert [device.state for device in devices] == ["suspect", "down", "down"]
            assert (status.clients, status.images, status.recovering, status.awaited) == (1, 0, False, ())
            configs = (await admin.connection.call(GroupsOf("main"), ConfigsAre)).configs
            assert len(configs) == 16 and isinstance(configs[0], ConfigIs)

    run(scenario())


def test_maps_come_by_themselves_and_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            shown = await admin.until_map(lambda drawn: drawn.pools and len(drawn.devices) == 3)
            assert (await admin.connection.call(GetMap(), MapIs)).map == shown
            before = admin.maps
            for number in range(20):
                await admin.connection.call(msgspec.structs.replace(MAIN, name=f"p{number}", groups=1), PoolIs)
            await admin.until_map(lambda drawn: len(drawn.pools) == 21)
            assert admin.maps - before < 10

    run(scenario())


def test_the_audit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            entries = (await admin.connection.call(AuditTail(3), AuditIs)).entries
            assert [(entry.who, entry.what, entry.subject) for entry in entries][-1] == ("admin", "pool create", "main")
            assert [entry.what for entry in entries][:2] == ["device registered"] * 2

    run(scenario())


def test_a_restored_master_asks_before_it_decides(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with master_in(tmp_path) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            daemons = await daemons_of(master, admin, 3)
            await admin.connection.call(MAIN, PoolIs)
            for daemon in daemons:
                await daemon.until_it_has(16)
            ticket = await admin.connection.call(GetTicket(), TicketIs)
        async with master_in(tmp_path, restored=2) as master:
            admin = await PlayedClient.admin(master, tmp_path)
            back = [PlayedDaemon(daemon.device[0], daemon.credentials) for daemon in daemons]
            for daemon in back[:2]:
                assert (await daemon.register(master)).configs == ()
            status = await admin.connection.call(GetStatus(), StatusIs)
            assert (status.generation, status.recovering, status.awaited) == (2, True, ("d1", "d2", "d3"))
            await reply(daemons, back[:2])
        async with master_in(tmp_path) as master:  # it died before closure: it must still not decide
            admin = await PlayedClient.admin(master, tmp_path)
            assert (await admin.connection.call(GetStatus(), StatusIs)).recovering
            back = [PlayedDaemon(daemon.device[0], daemon.credentials) for daemon in daemons]
            for daemon in back:
                await daemon.register(master)
            await reply(daemons, back)
            for daemon in back:
                await daemon.until_it_has(16)
                assert all(config.order == (2, 2) for config in daemon.configs.values())
            assert (await admin.connection.call(GetTicket(), TicketIs)).serial > ticket.serial
        with pytest.raises(ConfigError, match="needs a number above 2"):
            async with master_in(tmp_path, restored=2):
                pass

    async def reply(former: list[PlayedDaemon], back: list[PlayedDaemon]) -> None:
        for old, daemon in zip(former, back, strict=False):
            await daemon.until_asked(Query(2))
            told = tuple(ConfigIs(group, config) for group, config in old.configs.items())
            daemon.say(QueryReply(2, daemon.who, told, ()))

    run(scenario())
