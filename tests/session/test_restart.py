"""A daemon that starts anew: no session is left, no nonce is used twice, nothing is applied twice."""

from random import Random
from typing import Any

import pytest

from store.errors import Status
from store.wire.header import Op
from store.wire.seal import datagrams
from tests.session.world import pair

PAYLOAD = Random(8).randbytes(400_000)


@pytest.mark.parametrize("seed", range(8))
def test_requests_in_progress_survive_a_restart(seed: int) -> None:
    random = Random(seed)
    clock, daemon, client = pair(seed, rate=50e6, delay=0.005, loss=random.choice([0.0, 0.05]))
    daemon.objects[b"o"] = bytearray(PAYLOAD)
    daemon.write_delay = 0.01
    client.wait(client.request(Op.STAT, b"o"))
    wanted = []
    numbers = []
    for sequence in range(1, 9):
        payload = PAYLOAD[: random.choice([100, 50_000])]
        numbers.append(client.request(Op.WRITE, b"w%d" % sequence, sequence=sequence, payload=payload))
        offset = random.randrange(100_000)
        wanted.append((offset, *client.read(b"o", offset, random.choice([4096, 100_000]))))
    for life in (78, 79):
        clock.run(random.random() * 0.1)
        daemon.start(life)
    for done in client.wait(*numbers):
        assert done.status is Status.OK
    for offset, number, into in wanted:
        assert client.wait(number)[0].status is Status.OK
        assert into == PAYLOAD[offset : offset + len(into)]
    assert sorted(sequence for _, sequence in daemon.written) == list(range(1, 9))


def test_nonces_differ_across_restarts_whatever_the_clock_does() -> None:
    _, daemon, client = pair()
    daemon.objects[b"o"] = bytearray(PAYLOAD)
    seen: set[tuple[int, int]] = set()

    def unique(data: bytes, address: Any) -> None:
        for _, _, _, _, _, packet, life in datagrams(memoryview(data)):
            assert life and (life, packet) not in seen
            seen.add((life, packet))

    daemon.tap = unique
    for life in range(1, 20):
        number, _ = client.read(b"o", 0, 100_000)
        assert client.wait(number)[0].status is Status.OK
        daemon.start(life)
    assert len(seen) > 1000


def test_answers_of_an_earlier_life_are_not_believed() -> None:
    _, daemon, client = pair()
    daemon.objects[b"o"] = bytearray(PAYLOAD)
    old: list[bytes] = []
    daemon.tap = lambda data, address: old.append(data)
    client.wait(client.read(b"o", 0, 4096)[0])
    daemon.tap = lambda data, address: None
    daemon.start(78)
    client.wait(client.read(b"o", 0, 4096)[0])
    assert client.endpoint._life == 78
    for data in old:
        client.receive(data)
    assert client.endpoint._life == 78
