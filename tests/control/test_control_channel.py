"""The control channel over real sockets and real TLS, on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import datetime
import random
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
import uvloop

from store.control.channel import Connection, Quiet, dial
from store.control.joining import join
from store.control.link import MasterLink
from store.control.listener import Joining, Listener
from store.control.messages import (
    AuditTail,
    DevicesAre,
    Done,
    GetMap,
    GetTicket,
    Hello,
    ImageClose,
    Join,
    Joined,
    Message,
    PoolList,
)
from store.crypto import pki, tls
from store.crypto.identity import MASTER, Role, client_role
from store.crypto.join_ticket import JoinTicket, secret_hash, write_join_ticket
from store.errors import Status, StoreError

NOW = datetime.datetime.now(datetime.UTC)
LOCAL = ("127.0.0.1", 0)
Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    def runner(scenario: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(scenario, 20))

    return runner


def credentials(authority: pki.Authority, role: Role) -> tls.Credentials:
    key = pki.create_key()
    certificate = pki.issue(authority, role, pki.create_request(key), NOW, 30)
    return tls.Credentials(certificate, key, authority.certificate)


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return pki.create_authority(b"c" * 16, NOW)


class Desk(Quiet):
    """Answers a few calls, remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.gate = asyncio.Event()
        self.opened_count = 0

    def opened(self, connection: Connection) -> None:
        self.opened_count += 1

    async def call(self, connection: Connection, message: Message) -> Message:
        self.seen.append(message)
        if isinstance(message, GetMap):
            await self.gate.wait()
        if isinstance(message, AuditTail):
            raise ValueError("a defect")
        if isinstance(message, PoolList):
            raise StoreError(Status.BUSY, "not now")
        if isinstance(message, Hello):
            connection.push(GetTicket(7))
        return Done()

    async def push(self, connection: Connection, message: Message) -> None:
        self.seen.append(message)
        self.gate.set()


class Place:
    """A listener with a desk behind it."""

    def __init__(self, authority: pki.Authority, desk: Quiet, joining: Joining | None = None) -> None:
        self.refused: Counter[str] = Counter()
        context = tls.server_context(credentials(authority, MASTER))
        self.listener = Listener(context, desk, joining, lambda reason: self.refused.update([reason]))
        self.address = self.listener.listen(LOCAL)

    async def dial(self, who: tls.Credentials, handler: Quiet | None = None) -> Connection:
        return await dial(self.address, tls.client_context(who), MASTER, handler or Quiet())


def test_call_push_and_failure(run: Runner, authority: pki.Authority) -> None:
    async def scenario() -> None:
        desk, mine = Desk(), Desk()
        place = Place(authority, desk)
        connection = await place.dial(credentials(authority, client_role("reader")), mine)
        assert await connection.call(Hello("test"), Done) == Done()
        await mine.gate.wait()
        assert mine.seen == [GetTicket(7)]
        with pytest.raises(StoreError, match="not now") as caught:
            await connection.call(PoolList(), Done)
        assert caught.value.status == Status.BUSY
        with pytest.raises(StoreError, match="internal error"):
            await connection.call(AuditTail(), Done)
        with pytest.raises(StoreError, match="no answer to Hello"):
            await connection.call(Hello(), DevicesAre)
        assert await connection.call(ImageClose(id=1, generation=1), Done) == Done()  # still alive after all that
        connection.close()
        await connection.closed
        await place.listener.close()

    run(scenario())


def test_calls_and_pushes_of_a_connection_are_handled_in_order(run: Runner, authority: pki.Authority) -> None:
    async def scenario() -> None:
        desk = Desk()
        place = Place(authority, desk)
        connection = await place.dial(credentials(authority, client_role("reader")))
        for serial in range(500):
            connection.push(GetTicket(serial))
        await connection.call(Hello("end"), Done)
        assert desk.seen == [*map(GetTicket, range(500)), Hello("end")]
        await place.listener.close()

    run(scenario())


def test_a_call_has_a_deadline_and_a_lost_connection_ends_it(run: Runner, authority: pki.Authority) -> None:
    async def scenario() -> None:
        place = Place(authority, Desk())
        connection = await place.dial(credentials(authority, client_role("reader")))
        with pytest.raises(StoreError) as late:
            await connection.call(GetMap(), Done, deadline_s=0.05)
        assert late.value.status == Status.TIMEOUT
        waiting = asyncio.ensure_future(connection.call(GetMap(), Done))
        await asyncio.sleep(0)
        await place.listener.close()
        with pytest.raises(StoreError) as lost:
            await waiting
        assert lost.value.status == Status.UNAVAILABLE
        with pytest.raises(StoreError):
            await connection.call(GetMap(), Done)

    run(scenario())


def test_foreign_and_missing_certificates_are_refused_and_counted(run: Runner, authority: pki.Authority) -> None:
    foreign = pki.create_authority(b"f" * 16, NOW)

    async def scenario() -> None:
        desk = Desk()
        place = Place(authority, desk)
        stranger = credentials(foreign, client_role("reader"))
        with pytest.raises(StoreError) as not_ours:  # the stranger does not believe our master either
            await place.dial(stranger)
        assert not_ours.value.status == Status.DENIED
        believing = tls.Credentials(stranger.certificate, stranger.private_key, authority.certificate)
        with pytest.raises(StoreError, match="is this certificate of its cluster"):
            await (await place.dial(believing)).call(Hello(), Done)
        with pytest.raises(StoreError):
            naked = await dial(place.address, tls.join_client_context(authority.certificate), MASTER, Quiet())
            await naked.call(Hello(), Done)
        assert place.refused["certificate"] >= 2 and place.refused.total() == 3
        assert desk.opened_count == 0 and desk.seen == []
        await place.listener.close()

    run(scenario())


def test_only_a_master_is_taken_for_the_master(run: Runner, authority: pki.Authority) -> None:
    async def scenario() -> None:
        imposter = Listener(tls.server_context(credentials(authority, client_role("mallory"))), Desk())
        address = imposter.listen(LOCAL)
        with pytest.raises(StoreError, match="not the master"):
            await dial(address, tls.client_context(credentials(authority, client_role("reader"))), MASTER, Quiet())
        await imposter.close()

    run(scenario())


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"HYPHAE JOIN 9\n", b"\x16\x03\x01\x00\x00garbage", b""])
def test_noise_costs_nothing(run: Runner, authority: pki.Authority, noise: bytes) -> None:
    async def scenario() -> None:
        place = Place(authority, Desk())
        loop = asyncio.get_running_loop()
        sock = socket.create_connection(place.address)
        sock.setblocking(False)
        await loop.sock_sendall(sock, noise)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while await loop.sock_recv(sock, 100):
                pass
        sock.close()
        connection = await place.dial(credentials(authority, client_role("reader")))
        await connection.call(Hello(), Done)
        assert place.refused.total() == 1
        await place.listener.close()

    run(scenario())


def test_a_port_in_use_is_one_clear_line(run: Runner, authority: pki.Authority) -> None:
    async def scenario() -> None:
        place = Place(authority, Desk())
        second = Listener(tls.server_context(credentials(authority, MASTER)), Desk())
        with pytest.raises(Exception, match=rf"cannot listen on 127.0.0.1:{place.address[1]}: Address already in use"):
            second.listen(place.address)
        await place.listener.close()

    run(scenario())


class Registrar(Quiet):
    """Takes the one secret it knows, once."""

    def __init__(self, authority: pki.Authority, secret: bytes) -> None:
        self.authority, self.hashes = authority, {secret_hash(secret)}

    async def call(self, connection: Connection, message: Message) -> Message:
        if not isinstance(message, Join) or secret_hash(message.secret) not in self.hashes:
            raise StoreError(Status.DENIED, "this join ticket is not known, or used up")
        self.hashes.clear()
        certificate = pki.issue(self.authority, client_role("newcomer"), message.request, NOW, 30)
        return Joined(b"c" * 16, client_role("newcomer").uri, certificate, self.authority.certificate, ())


def test_joining(run: Runner, authority: pki.Authority) -> None:
    async def scenario() -> None:
        registrar = Registrar(authority, b"s" * 16)
        joining = Joining(authority.certificate, tls.join_server_context(credentials(authority, MASTER)), registrar)
        desk = Desk()
        place = Place(authority, desk, joining)
        mark = tls.fingerprint(authority.certificate)
        word = write_join_ticket(JoinTicket((("127.0.0.1", 1), place.address), mark, b"s" * 16, 2**40))
        joined, mine = await join(word)
        assert joined.role == "urn:hyphae:client:newcomer"
        connection = await place.dial(mine)
        await connection.call(Hello(), Done)
        with pytest.raises(StoreError, match="used up"):
            await join(word)
        elsewhere = write_join_ticket(JoinTicket((place.address,), b"x" * 32, b"s" * 16, 2**40))
        with pytest.raises(StoreError, match="another cluster"):
            await join(elsewhere)
        await place.listener.close()

    run(scenario())


def test_a_link_comes_back_by_itself(run: Runner, authority: pki.Authority, free_ports: Callable[[int], int]) -> None:
    async def scenario() -> None:
        greeted = asyncio.Queue[int]()
        address = ("127.0.0.1", free_ports(1))
        context = tls.server_context(credentials(authority, MASTER))

        async def greet(connection: Connection) -> None:
            await connection.call(Hello(), Done)
            greeted.put_nowait(1)

        who = tls.client_context(credentials(authority, client_role("reader")))
        link = MasterLink([address], who, Quiet(), greet)
        link.start()
        with pytest.raises(StoreError, match="cannot connect to 127"):
            await link.call(Hello(), Done, deadline_s=0.3)
        for _ in range(2):
            listener = Listener(context, Desk())
            listener.listen(address)
            await greeted.get()
            assert await link.call(Hello(), Done) == Done()
            await listener.close()
        await link.close()
        assert not link.connected

    run(scenario())


def test_garbage_in_frames_ends_one_connection_at_most(run: Runner, authority: pki.Authority) -> None:
    """Random bytes where frames should be, from somebody with a good certificate."""
    chance = random.Random(7)

    def garbage() -> bytes:
        body = chance.randbytes(chance.randrange(40))
        if chance.random() < 0.5:  # a frame in which only the message is strange
            body = msgspec.msgpack.encode([chance.randrange(4), chance.randrange(9), {"type": chance.randbytes(3)}])
        return len(body).to_bytes(4, "little") + body

    async def scenario() -> None:
        place = Place(authority, Desk())
        who = credentials(authority, client_role("reader"))
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*place.address, ssl=tls.client_context(who))
            writer.write(b"".join(garbage() for _ in range(50)))
            writer.write((17 << 20).to_bytes(4, "little"))  # a frame beyond the limit
            with contextlib.suppress(ConnectionError):
                await writer.drain()
                while await reader.read(1000):
                    pass
            writer.close()
        connection = await place.dial(who)
        assert await connection.call(Hello(), Done) == Done()
        await place.listener.close()

    run(scenario())
