"""Requests answered by one REPLY: whole or in fragments, lost, late, repeated, refused."""

from random import Random

import pytest

from store.errors import Status
from store.limits import MIB, OBJECT_MAX
from store.session.assembly import Assemblies
from store.wire.header import Flag, Op
from tests.session.world import Client, pair

PAYLOAD = Random(6).randbytes(OBJECT_MAX)


def write(client: Client, sequence: int, offset: int, payload: bytes, **more: float) -> int:
    return client.request(
        Op.WRITE, b"o", sequence=sequence, floor=max(0, sequence - 60), offset=offset, payload=payload, **more
    )


@pytest.mark.parametrize("size", [0, 1, 1000, 1320, 4096, 60_000, 1_000_000, OBJECT_MAX])
@pytest.mark.parametrize("mtu", [1228, 1428, 65_536])
def test_payloads_of_every_size_arrive_once(size: int, mtu: int) -> None:
    _, daemon, client = pair(mtu=mtu)
    for sequence in (1, 2):
        done = client.wait(write(client, sequence, 0, PAYLOAD[:size]))[0]
        assert (done.status, done.version) == (Status.OK, sequence)
    assert daemon.objects[b"o"] == PAYLOAD[:size]
    assert daemon.written == [(7, 1), (7, 2)]


def test_a_long_name_and_a_ticket_still_fit() -> None:
    _, daemon, client = pair(mtu=1228)
    name = b"n" * 1024
    number = client.request(Op.WRITE, name, sequence=1, payload=b"abc")
    assert client.wait(number)[0].status is Status.OK
    assert daemon.objects[name] == b"abc"


@pytest.mark.parametrize("seed", range(12))
def test_writes_survive_whatever_the_network_does(seed: int) -> None:
    random = Random(seed)
    clock, daemon, client = pair(
        seed, rate=random.choice([5e6, 50e6, 1e9]), delay=random.choice([0.0002, 0.02]), buffer=0.05,
        loss=random.choice([0.0, 0.05, 0.2]), late=0.05, late_by=0.01, twice=0.05,
    )
    daemon.write_delay = random.choice([0.0, 0.001, 0.03])
    expected = bytearray(300_000)
    numbers = []
    for sequence in range(1, 26):
        length = random.choice([1, 100, 4096, 4096, 30_000])
        offset = sequence * 10_000
        numbers.append(write(client, sequence, offset, PAYLOAD[:length], seconds=60))
        expected[offset : offset + length] = PAYLOAD[:length]
        if length > 10_000:  # the next ones overlap it
            client.wait(*numbers)
        clock.run(random.random() * 0.02)
    for done in client.wait(*numbers):
        assert done.status is Status.OK
    assert sorted(sequence for _, sequence in daemon.written) == list(range(1, 26))
    assert daemon.objects[b"o"] == expected[: len(daemon.objects[b"o"])]
    paths = client.endpoint._writer.paths()
    clock.run(5.0)
    assert all(path.flight == 0 for path in paths)


def test_a_slow_commit_is_neither_lost_nor_sent_again_at_once() -> None:
    _, daemon, client = pair(rate=1e9)
    daemon.write_delay = 0.2
    client.wait(write(client, 1, 0, PAYLOAD[:200_000]))
    before = client.up.sent
    client.wait(write(client, 2, 0, PAYLOAD[:200_000]))
    assert client.up.sent - before < 1.1 * 200_000 / 1300
    assert len(daemon.written) == 2


def test_a_lost_reply_is_asked_for_with_one_datagram() -> None:
    clock, daemon, client = pair(rate=1e9)
    client.wait(write(client, 1, 0, PAYLOAD[:500_000]))
    daemon.write_delay = 0.05
    number = write(client, 2, 0, PAYLOAD[:500_000])
    clock.run(0.04)
    client.down.down = True
    clock.run(0.02)
    client.down.down = False
    sent = client.up.sent
    assert client.wait(number)[0].status is Status.OK
    assert client.up.sent - sent < 10
    assert len(daemon.written) == 2


def test_a_daemon_without_write_memory_says_busy_and_when_to_return() -> None:
    _, daemon, client = pair()
    client.wait(write(client, 1, 0, b"x"))
    daemon.service._assemblies.limit = 64 * 1024
    done = client.wait(write(client, 2, 0, PAYLOAD[:100_000]))[0]
    assert (done.status, done.length) == (Status.BUSY, 5)
    assert daemon.service.counters.busy >= 1
    assert client.wait(write(client, 3, 0, PAYLOAD[:4096]))[0].status is Status.OK


def test_the_window_shrinks_with_writers_and_never_below_what_one_needs() -> None:
    memory = Assemblies(256 * MIB)
    assert memory.window() == 8 * MIB
    memory._used, memory._writers = 200 * MIB, 100
    assert memory.window() == 56 * MIB // 100
    memory._used = 256 * MIB - 1
    assert memory.window() == 0


def test_half_received_requests_are_dropped_and_their_memory_is_free_again() -> None:
    clock, daemon, client = pair()
    client.wait(write(client, 1, 0, b"x"))
    number = write(client, 2, 0, PAYLOAD[:1_000_000], seconds=3.0)
    clock.run(0.001)
    client.up.down = True
    assert client.wait(number)[0].status is Status.TIMEOUT
    clock.run(15.0)
    assert daemon.service.counters.assemblies_dropped == 1
    assert daemon.service._assemblies._used == 0
    assert daemon.service.deadline(clock.now) is None  # nothing left to wait for


def test_background_yields_to_foreground() -> None:
    clock, _, client = pair(rate=20e6, delay=0.01)
    client.wait(write(client, 1, 0, b"x"))
    background = [
        client.request(
            Op.WRITE, b"b", sequence=n, floor=1, payload=PAYLOAD[:1_000_000], flags=int(Flag.BACKGROUND)
        )
        for n in range(2, 5)
    ]
    clock.run(1.0)
    start = clock.now
    client.wait(write(client, 5, 0, PAYLOAD[:1_000_000]))
    assert clock.now - start < 0.8  # 0.43 s alone on the line
    assert all(done.status is Status.OK for done in client.wait(*background))


@pytest.mark.parametrize("op", [Op.STAT, Op.LIST])
def test_questions_need_no_sequence(op: Op) -> None:
    _, daemon, client = pair()
    daemon.objects[b"o"] = bytearray(5000)
    done = client.wait(client.request(op, b"o"))[0]
    assert done.status is Status.OK
    assert (done.object_size, done.data) == ((5000, b"") if op is Op.STAT else (0, b"x" * 500))
