"""Reads through both cores: every size and edge, with and without faults on the way."""

from random import Random
from typing import Any

import pytest

from store.errors import Status
from store.limits import OBJECT_MAX
from store.session.credit import Credit
from store.wire.header import Flag, Op
from tests.session.world import GROUP, Client, Clock, Daemon, Link, pair, ticket

CONTENT = Random(5).randbytes(3_000_000)


def ready(seed: int = 1, **link: Any) -> tuple[Clock, Daemon, Client]:
    clock, daemon, client = pair(seed, **link)
    daemon.objects[b"o"] = bytearray(CONTENT)
    return clock, daemon, client


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (4096, 4096), (0, 1292), (0, 1293), (7, 60_000), (0, 1 << 20), (123_457, 2_000_001)],
)
@pytest.mark.parametrize("mtu", [1228, 1428, 9000, 65_536])
def test_bytes_arrive(offset: int, length: int, mtu: int) -> None:
    _, _, client = pair(mtu=mtu)
    client.daemon.objects[b"o"] = bytearray(CONTENT)
    for _ in range(2):  # the second time with whatever datagram size was found
        number, into = client.read(b"o", offset, length)
        done = client.wait(number)[0]
        assert (done.status, done.length, done.object_size) == (Status.OK, length, len(CONTENT))
        assert into == CONTENT[offset : offset + length]


@pytest.mark.parametrize(
    ("offset", "expected"), [(2_999_000, 1000), (2_990_000, 10_000), (3_000_000, 0), (3_900_000, 0)]
)
@pytest.mark.parametrize("length", [4096, 200_000])
def test_a_read_ends_where_the_object_ends(offset: int, expected: int, length: int) -> None:
    expected = min(expected, length)
    _, _, client = ready()
    number, into = client.read(b"o", offset, min(length, OBJECT_MAX - offset))
    done = client.wait(number)[0]
    assert (done.status, done.length) == (Status.OK, expected)
    assert into[:expected] == CONTENT[offset : offset + expected]
    assert set(into[expected:]) <= {0xEE}  # nothing is written beyond the end


def test_a_missing_object_is_told_from_an_empty_one() -> None:
    _, daemon, client = ready()
    daemon.objects[b"empty"] = bytearray()
    missing, _ = client.read(b"no", 0, 100_000)
    empty, _ = client.read(b"empty", 0, 100_000)
    first, second = client.wait(missing, empty)
    assert first.status is Status.NOT_FOUND
    assert (second.status, second.length, second.object_size) == (Status.OK, 0, 0)


def test_holes_travel_as_their_length_and_become_zeros() -> None:
    _, daemon, client = ready()
    daemon.objects[b"h"] = bytearray(1 << 20)
    daemon.holes[b"h"] = [(0, 1 << 20)]
    client.wait(client.request(Op.STAT, b"h"))
    sent = client.down.sent
    number, into = client.read(b"h", 0, 1 << 20)
    done = client.wait(number)[0]
    assert (done.status, done.length) == (Status.OK, 1 << 20)
    assert into == bytes(1 << 20)
    assert client.down.sent - sent < 200  # of 800 that the bytes would take


def test_an_untorn_read_of_a_changing_object_conflicts() -> None:
    clock, daemon, client = ready(rate=20e6, delay=0.02)
    number, _ = client.read(b"o", 0, 2_000_000, flags=int(Flag.UNTORN))
    clock.at(clock.now + 0.3, lambda: daemon.versions.update({b"o": 2}))
    assert client.wait(number)[0].status is Status.CONFLICT
    number, into = client.read(b"o", 0, 2_000_000, flags=int(Flag.UNTORN))
    assert client.wait(number)[0].status is Status.OK
    assert into == CONTENT[:2_000_000]


def test_a_cancelled_read_touches_its_buffer_no_more() -> None:
    clock, _, client = ready(rate=20e6)
    number, into = client.read(b"o", 0, 1_000_000)
    clock.run(0.1)
    client.endpoint.cancel(number)
    before = bytes(into)
    other, _ = client.read(b"o", 0, 4096)
    client.wait(other)
    clock.run(1.0)
    assert bytes(into) == before
    assert number not in client.done


def test_every_read_ends_by_its_deadline_even_if_nobody_answers() -> None:
    clock, _, client = ready()
    client.wait(client.request(Op.STAT, b"o"))
    client.up.down = True
    start = clock.now
    numbers = [client.read(b"o", 0, length, seconds=5.0)[0] for length in (4096, 1_000_000)]
    for done in client.wait(*numbers):
        assert done.status is Status.TIMEOUT
    assert clock.now - start <= 5.1
    assert client.endpoint.deadline() is None or client.endpoint.deadline() >= clock.now  # type: ignore[operator]


def test_requests_beyond_the_bound_are_refused_at_once() -> None:
    clock, _, client = ready()
    client.up.down = True
    with pytest.raises(OverflowError, match="too many requests"):
        for _ in range(5000):
            client.endpoint.read(clock.now, GROUP, b"o", 0, 1, memoryview(bytearray(1)), deadline=clock.now + 9)


@pytest.mark.parametrize(
    ("offset", "length", "name"), [(0, 0, b"o"), (-1, 4, b"o"), (OBJECT_MAX, 1, b"o"), (0, 4, b""), (0, 4, b"x" * 1025)]
)
def test_nonsense_is_refused_before_it_is_sent(offset: int, length: int, name: bytes) -> None:
    clock, _, client = ready()
    with pytest.raises(ValueError, match="outside"):
        client.endpoint.read(clock.now, GROUP, name, offset, length, memoryview(bytearray(8)), deadline=clock.now + 9)


def test_a_slow_disk_is_not_asked_twice() -> None:
    """A request that was received and not answered is parked: neither lost nor in the window (echo and ACK say so)."""
    _, daemon, client = ready(delay=0.0005)
    slow = Random(3)
    daemon.slowness = lambda: 0.06 if slow.random() < 0.1 else 0.0
    numbers = []
    for index in range(300):
        numbers.append(client.read(b"o", index * 4096, 4096)[0])
        if len(numbers) % 16 == 0:
            client.wait(*numbers)
    client.wait(*numbers)
    assert daemon.served <= 300 * 1.02


@pytest.mark.parametrize("seed", range(12))
def test_reads_survive_whatever_the_network_does(seed: int) -> None:
    random = Random(seed)
    clock, _, client = ready(
        seed, rate=random.choice([5e6, 50e6, 1e9]), delay=random.choice([0.0002, 0.02]), buffer=0.05,
        loss=random.choice([0.0, 0.05, 0.2]), late=0.05, late_by=0.01, twice=0.05,
    )
    wanted = []
    for _ in range(25):
        length = random.choice([1, 100, 4096, 4096, 30_000, 200_000])
        offset = random.randrange(len(CONTENT) - length)
        wanted.append((offset, length, *client.read(b"o", offset, length, seconds=60)))
        clock.run(random.random() * 0.02)
    for offset, length, number, into in wanted:
        done = client.wait(number)[0]
        assert (done.status, done.length) == (Status.OK, length)
        assert into == CONTENT[offset : offset + length]
    assert client.endpoint._reader._credit.used == client.endpoint._reader._credited


def test_many_daemons_do_not_drown_one_client() -> None:
    """Incast: the common credit keeps what 32 daemons send at once within a switch port of 256 KiB."""
    clock = Clock(1)
    credit = Credit(64 << 20)
    down = Link(clock, rate=1e9, delay=0.0002, buffer=0.002)
    clients = []
    for index in range(32):
        daemon = Daemon(clock, life=index + 1)
        daemon.objects[b"o"] = bytearray(CONTENT)
        up = Link(clock, rate=1e9, delay=0.0002)
        clients.append(Client(clock, daemon, up, down, session=index + 1, credit=credit, sealed=ticket()))
    numbers = [client.read(b"o", 0, 300_000)[0] for client in clients]
    start = clock.now
    clock.run(5.0, lambda: all(number in client.done for number, client in zip(numbers, clients, strict=True)))
    assert all(client.done[number].length == 300_000 for number, client in zip(numbers, clients, strict=True))
    assert clock.now - start < 0.35  # 0.08 s is the line's own time
    assert down.dropped < 0.08 * down.sent
    assert credit.used == 0
