"""The master's pure registries: images and locks, credentials, clients, devices, audit."""

import hashlib
from collections.abc import Callable

import pytest

from master.core.audit import Audit
from master.core.credentials import Credentials
from master.core.devices import Devices
from master.core.images import ImageRecord, Images
from master.core.principals import ADMIN, EVERYTHING, ClientRecord, JoinRecord, Principals
from store.control.messages import Heartbeat, Mode, PoolUsage, RegisterDevice
from store.crypto.identity import DAEMON, client_role
from store.crypto.keys import derive_ticket_key
from store.crypto.ticket import Cap, Right, open_ticket
from store.errors import Status, StoreError
from store.ids import DeviceId
from store.limits import (
    AUDIT_KEPT,
    DEVICE_DOWN_S,
    DEVICE_SUSPECT_S,
    IMAGE_LOCK_LEASE_S,
    KEY_ROTATION_S,
    TICKET_LIFETIME_S,
)

GIB = 1 << 30
WALL = 1_800_000_000
A, B = DeviceId(b"a" * 16), DeviceId(b"b" * 16)


class Staged:
    """A ledger without a disk: what was put is what a restart finds."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.kept[key] = value

    def delete(self, key: str) -> None:
        self.kept.pop(key, None)

    def items(self) -> list[tuple[str, bytes]]:
        return list(self.kept.items())


def refused(status: Status, match: str, call: Callable[[], object]) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        call()
    assert caught.value.status == status


# --- images


def make_images(staged: Staged, now: float = 0.0) -> Images:
    images = Images(staged)
    images.table.load(staged.items())
    images.loaded(now)
    return images


def book(images: Images) -> ImageRecord:
    return images.find(1, "book")


def test_one_writer_at_a_time() -> None:
    images = make_images(Staged())
    record = images.create(WALL, 77, 1, "book", GIB)
    _, first = images.open(10.0, record, Mode.WRITE, "nbd on one", "c1")
    assert first == 1
    text = "open for writing by nbd on one; if that is gone, wait 25 s"
    refused(Status.BUSY, text, lambda: images.open(15.0, book(images), Mode.WRITE, "nbd on two", "c2"))
    assert images.open(15.0, book(images), Mode.READ, "", "c2")[1] == 0
    assert images.renew(35.0, book(images), first).lease == IMAGE_LOCK_LEASE_S
    refused(Status.BUSY, "wait 5 s", lambda: images.open(60.0, book(images), Mode.WRITE, "", "c2"))
    _, second = images.open(66.0, book(images), Mode.WRITE, "", "c2")
    assert second == 2
    refused(Status.FENCED, "lock was taken by c2", lambda: images.renew(67.0, book(images), first))
    images.close(book(images), first)  # too late to matter
    assert images.info(67.0, book(images), "main").holder == "c2"
    images.close(book(images), second)
    assert images.info(67.0, book(images), "main").holder == ""
    assert images.open(67.0, book(images), Mode.WRITE, "", "c1")[1] == 3


def test_a_lock_that_ran_out_and_nobody_wanted_is_still_its_holders() -> None:
    images = make_images(Staged())
    _, generation = images.open(0.0, images.create(WALL, 77, 1, "book", GIB), Mode.WRITE, "one", "c1")
    assert images.renew(500.0, book(images), generation).size == GIB


def test_a_lock_can_be_taken() -> None:
    images = make_images(Staged())
    _, first = images.open(0.0, images.create(WALL, 77, 1, "book", GIB), Mode.WRITE, "one", "c1")
    _, second = images.open(1.0, book(images), Mode.TAKE, "two", "c2")
    assert second == first + 1
    refused(Status.FENCED, "taken by two", lambda: images.renew(2.0, book(images), first))


def test_a_restart_renews_every_lock_and_keeps_generations() -> None:
    staged = Staged()
    images = make_images(staged)
    _, generation = images.open(0.0, images.create(WALL, 77, 1, "book", GIB), Mode.WRITE, "one", "c1")
    images = make_images(staged, now=1000.0)
    refused(Status.BUSY, "by one", lambda: images.open(1029.0, book(images), Mode.WRITE, "", "c2"))
    assert images.renew(1029.0, book(images), generation).lease == IMAGE_LOCK_LEASE_S
    assert images.open(1060.0, book(images), Mode.WRITE, "", "c2")[1] == generation + 1


def test_sizes_names_and_removal() -> None:
    images = make_images(Staged())
    for name in ("", "a b", "a/b", "x" * 129, "a\n"):
        refused(Status.INVALID, "no image name", lambda name=name: images.create(WALL, 1, 1, name, GIB))  # type: ignore[misc]
    for size in (0, -4096, 4097, 1 << 51):
        refused(Status.INVALID, "in steps of 4096", lambda size=size: images.create(WALL, 1, 1, "book", size))  # type: ignore[misc]
    record = images.create(WALL, 77, 1, "book", GIB)
    refused(Status.EXISTS, "already", lambda: images.create(WALL, 78, 1, "book", GIB))
    assert images.create(WALL, 78, 2, "book", GIB).id == 78  # another pool
    assert images.resize(record, 2 * GIB, 0).size == 2 * GIB
    refused(Status.FENCED, "cannot shrink", lambda: images.resize(book(images), GIB, 0))
    _, generation = images.open(0.0, book(images), Mode.WRITE, "one", "c1")
    assert images.resize(book(images), GIB, generation).size == GIB
    refused(Status.BUSY, "open for writing by one", lambda: images.remove(1.0, book(images), 0))
    images.remove(1.0, book(images), generation)
    refused(Status.NOT_FOUND, "no image 'book'", lambda: book(images))
    again = images.create(WALL, 79, 1, "book", GIB)
    assert again.prefix != record.prefix and again.prefix.startswith(b"book.")


# --- credentials


class Keys:
    """Credentials over staged records, drawn from a counter instead of chance."""

    def __init__(self, staged: Staged, generation: int = 1) -> None:
        self.drawn = 0
        self.of = Credentials(staged, b"c" * 16, generation, self._draw)
        self.of.load(staged.items())

    def _draw(self, size: int) -> bytes:
        self.drawn += 1
        return hashlib.sha256(self.drawn.to_bytes(8, "big")).digest()[:size]


CLIENT = ClientRecord("anna", (Cap(1, int(Right.data())), Cap(0, int(Right.ADMIN))), WALL)


def test_a_ticket_opens_at_each_device_and_nowhere_else() -> None:
    keys = Keys(Staged()).of
    keys.rotate(WALL, [A, B])
    given = keys.issue(WALL, CLIENT, 0, [A, B])
    ticket = open_ticket(given.ticket)
    assert (ticket.client, ticket.serial, ticket.not_after) == ("anna", 1 << 48 | 1, WALL + TICKET_LIFETIME_S)
    assert ticket.caps == (Cap(1, 7),)  # what daemons have no use for is left out
    for device in (A, B):
        secret = keys.secrets(device).by_epoch[ticket.key_epoch]
        assert given.keys[device] == derive_ticket_key(secret, given.ticket)
    assert given.keys[A] != given.keys[B] and given.renew_in == TICKET_LIFETIME_S / 2
    later = keys.keys(WALL + 5, "anna", given.ticket, [A, B, DeviceId(b"d" * 16)])
    assert later.ticket == given.ticket and later.keys[A] == given.keys[A] and len(later.keys) == 3


def test_serials_rise_and_belong_to_their_client() -> None:
    staged = Staged()
    keys = Keys(staged).of
    keys.rotate(WALL, [A])
    first, second = (keys.issue(WALL, CLIENT, 0, [A]).serial for _ in range(2))
    assert second == first + 1
    keys = Keys(staged).of  # a restart
    assert keys.issue(WALL, CLIENT, 0, [A]).serial == second + 1
    assert keys.issue(WALL + 40_000, CLIENT, first, [A]).serial == first
    other = ClientRecord("bert", EVERYTHING, WALL)
    refused(Status.NO_SESSION, "not yours", lambda: keys.issue(WALL, other, first, [A]))
    assert Keys(staged, generation=2).of.issue(WALL, CLIENT, 0, [A]).serial >> 48 == 2  # above all of before
    given = keys.issue(WALL, CLIENT, 0, [A])
    refused(Status.DENIED, "not given to this client", lambda: keys.keys(WALL, "bert", given.ticket, [A]))
    refused(Status.INVALID, "no ticket", lambda: keys.keys(WALL, "anna", b"?", [A]))
    late = WALL + TICKET_LIFETIME_S
    refused(Status.EXPIRED, "expired", lambda: keys.keys(late, "anna", given.ticket, [A]))


def test_no_ticket_outlives_its_key() -> None:
    staged = Staged()
    keys = Keys(staged).of
    wall = WALL
    keys.rotate(wall, [A])
    assert not keys.is_due(wall + KEY_ROTATION_S - 1) and keys.is_due(wall + KEY_ROTATION_S)
    last_moment = open_ticket(keys.issue(wall + KEY_ROTATION_S - 1, CLIENT, 0, [A]).ticket)
    for rotation in (1, 2):
        assert last_moment.key_epoch in keys.secrets(A).by_epoch
        keys.rotate(wall + rotation * KEY_ROTATION_S, [A])
    assert last_moment.key_epoch not in keys.secrets(A).by_epoch
    assert last_moment.not_after <= wall + 2 * KEY_ROTATION_S


def test_the_next_secret_is_known_before_it_is_used() -> None:
    keys = Keys(Staged()).of
    keys.rotate(WALL, [A])
    before = keys.secrets(A)
    epoch = keys.rotate(WALL + 5, [A])
    after = keys.secrets(A)
    assert after.current == epoch == before.current + 1
    assert before.by_epoch[epoch] == after.by_epoch[epoch]
    assert sorted(after.by_epoch) == [epoch - 1, epoch, epoch + 1]
    staged = len({secret for device in (A, B) for secret in keys.secrets(device).by_epoch.values()})
    assert staged == 6


def test_a_client_without_data_rights_gets_no_ticket() -> None:
    keys = Keys(Staged()).of
    keys.rotate(WALL, [A])
    watcher = ClientRecord("watcher", (Cap(0, int(Right.ADMIN)),), WALL)
    refused(Status.DENIED, "neither read nor write", lambda: keys.issue(WALL, watcher, 0, [A]))
    wide = ClientRecord("wide", tuple(Cap(pool, 7, b"x" * 40) for pool in range(16)), WALL)
    refused(Status.INVALID, "fewer or shorter", lambda: keys.issue(WALL, wide, 0, [A]))


# --- clients and joining


def test_clients() -> None:
    principals = Principals(Staged())
    principals.create(WALL, "anna", (Cap(3, int(Right.READ), b"book."),))
    record = principals.get("anna")
    assert record.allows(Right.READ, 3, b"book.1") and not record.allows(Right.READ, 3, b"other")
    assert not record.allows(Right.WRITE, 3, b"book.1") and not record.allows(Right.ADMIN)
    refused(Status.INVALID, "no client name", lambda: principals.create(WALL, "a b", EVERYTHING))
    refused(Status.INVALID, "without rights", lambda: principals.create(WALL, "x", ()))
    refused(Status.DENIED, "not known here", lambda: principals.get("bert"))
    principals.revoke("anna")
    refused(Status.DENIED, "revoked", lambda: principals.get("anna"))
    principals.create(WALL, "anna", EVERYTHING)
    assert principals.get("anna").allows(Right.ADMIN)
    principals.create(WALL, ADMIN, EVERYTHING)
    refused(Status.DENIED, "cannot be revoked", lambda: principals.revoke(ADMIN))
    refused(Status.NOT_FOUND, "no client", lambda: principals.revoke("bert"))


def test_a_join_ticket_works_once_and_in_time() -> None:
    staged = Staged()
    principals = Principals(staged)
    principals.expect(WALL, b"s1", JoinRecord("daemon", "", (), WALL + 60))
    principals.expect(WALL, b"s2", JoinRecord("client", "anna", EVERYTHING, WALL + 60))
    assert b"s1" not in b"".join(staged.kept.values()) and not any("s1" in key for key in staged.kept)
    assert principals.use(WALL + 59, b"s1")[0] == DAEMON
    refused(Status.DENIED, "has been used", lambda: principals.use(WALL + 59, b"s1"))
    refused(Status.DENIED, "not known", lambda: principals.use(WALL + 59, b"guess"))
    refused(Status.DENIED, "expired", lambda: principals.use(WALL + 60, b"s2"))
    refused(Status.INVALID, "30 days", lambda: principals.expect(WALL, b"s", JoinRecord("daemon", "", (), WALL << 1)))
    king = JoinRecord("king", "", (), WALL + 1)
    refused(Status.INVALID, "not for 'king'", lambda: principals.expect(WALL, b"s", king))
    principals.expect(WALL, b"s3", JoinRecord("client", "bert", EVERYTHING, WALL + 60))
    assert principals.use(WALL, b"s3")[0] == client_role("bert")


# --- devices


def said(device: DeviceId, **changed: object) -> RegisterDevice:
    fields: dict[str, object] = {
        "device": device, "cluster": b"", "incarnation": 5, "claim": None, "address": ("10.0.0.1", 1), "host": "box",
        "peer": ("10.0.0.1", 2), "zone": "home", "capacity": GIB, "used": 3,
    }  # fmt: skip
    return RegisterDevice(**(fields | changed))  # type: ignore[arg-type]


def test_devices_are_numbered_and_remembered() -> None:
    staged = Staged()
    devices = Devices(staged, 0.0)
    assert devices.register(1.0, WALL, said(A)) and devices.register(1.0, WALL, said(B, zone="", host=""))
    assert not devices.register(2.0, WALL + 9, said(A, used=7))  # nothing that the map shows
    assert devices.register(2.0, WALL + 9, said(A, address=("10.0.0.9", 1)))
    again = Devices(staged, 0.0)
    again.table.load(staged.items())
    names = [(record.name, record.host, record.zone, record.address) for record in again.all()]
    assert names == [("d1", "box", "home", ("10.0.0.9", 1)), ("d2", "10.0.0.1", "10.0.0.1", ("10.0.0.1", 1))]
    refused(Status.INVALID, "capacity", lambda: devices.register(1.0, WALL, said(DeviceId(b"z" * 16), capacity=0)))


def test_silence_makes_a_device_suspect_then_down() -> None:
    devices = Devices(Staged(), 0.0)
    devices.register(100.0, WALL, said(A))
    record = devices.all()[0]
    assert devices.state(100.0 + DEVICE_SUSPECT_S - 1, record) == "up" and devices.ready(105.0) == [record]
    assert devices.state(100.0 + DEVICE_SUSPECT_S, record) == "suspect"
    assert devices.ready(100.0 + DEVICE_SUSPECT_S) == []
    assert devices.state(100.0 + DEVICE_DOWN_S, record) == "down"
    beat = Heartbeat(used=9, free=1, pools=(PoolUsage(1, 4, 4096), PoolUsage(2, 1, 5)))
    devices.heard(200.0, A, beat)
    devices.heard(200.0, B, beat)  # not registered: not counted
    assert devices.state(201.0, record) == "up" and devices.used(A) == 9
    assert devices.usage(1) == (4, 4096) and devices.usage(9) == (0, 0)


def test_a_device_not_heard_since_the_master_started_is_not_ready() -> None:
    staged = Staged()
    Devices(staged, 0.0).register(0.0, WALL, said(A))
    devices = Devices(staged, 1000.0)
    devices.table.load(staged.items())
    assert devices.ready(1000.5) == []


# --- audit


def test_the_audit_keeps_the_newest() -> None:
    staged = Staged()
    audit = Audit(staged)
    for number in range(AUDIT_KEPT + 5):
        audit.note(WALL, "anna", "image create", f"i{number}")
    assert len(staged.kept) == AUDIT_KEPT
    again = Audit(staged)
    again.table.load(staged.items())
    again.loaded()
    again.note(WALL, "bert", "image remove", "i0")
    assert [(entry.who, entry.subject) for entry in again.tail(2)] == [("anna", f"i{AUDIT_KEPT + 4}"), ("bert", "i0")]
    assert again.tail(0) == ()
