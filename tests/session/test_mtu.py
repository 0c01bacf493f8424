"""The search for the datagram size, and what happens when a path shrinks."""

from random import Random

import pytest

from store.errors import Status
from store.session.mtu import PathMtu
from store.wire.header import Op
from tests.session.world import Client, Clock, Daemon, Link, pair

CONTENT = Random(9).randbytes(2_000_000)


def path(mtu: int, *, interface: int = 65_536, rate: float = 1e9, delay: float = 0.0002, loss: float = 0.0) -> tuple[
    Clock, Daemon, Client, list[Link]
]:
    clock = Clock(3)
    daemon = Daemon(clock)
    daemon.objects[b"o"] = bytearray(CONTENT)
    links = [Link(clock, rate=rate, delay=delay, mtu=mtu, loss=loss) for _ in range(2)]
    return clock, daemon, Client(clock, daemon, *links, mtu=interface), links


def work(client: Client, *, megabytes: int = 2) -> None:
    for sequence in range(1, megabytes + 1):
        number, into = client.read(b"o", 0, 1_000_000)
        done = client.wait(number)[0]
        assert done.status is Status.OK
        assert into == CONTENT[:1_000_000]
        client.wait(client.request(Op.WRITE, b"w", sequence=sequence, payload=CONTENT[:300_000]))


@pytest.mark.parametrize(
    ("mtu", "interface", "size"),
    [(1500, 65_536, 1400), (9000, 65_536, 8192), (65_535, 65_536, 60_000), (65_535, 9000, 8192), (65_535, 1500, 1400)],
)
def test_the_size_climbs_as_far_as_the_path_goes(mtu: int, interface: int, size: int) -> None:
    clock, _, client, _ = path(mtu, interface=interface)
    work(client)
    clock.run(4.0)
    work(client)
    assert client.endpoint._outbox.size == size


def test_slow_links_keep_small_datagrams() -> None:
    _, _, client, _ = path(65_535, rate=20e6, delay=0.05)
    work(client, megabytes=6)
    assert client.endpoint._outbox.size <= 8192


def test_a_path_that_shrinks_is_noticed() -> None:
    _, _, client, links = path(65_535)
    work(client)
    assert client.endpoint._outbox.size == 60_000
    for link in links:
        link.mtu = 1428
    work(client, megabytes=1)
    assert client.endpoint._outbox.size == 1400


def test_random_loss_is_no_black_hole() -> None:
    clock, _, client, _ = path(65_535, loss=0.05)
    for _ in range(6):
        work(client)
        clock.run(4.0)
    reached = client.endpoint._mtu.size
    assert reached >= 8192
    for _ in range(6):
        work(client)
        assert client.endpoint._mtu.size >= reached


def test_a_lost_probe_is_tried_three_times_then_again_after_ten_minutes() -> None:
    mtu = PathMtu(0.0, 65_536)
    sent = []
    now = 0.0
    while now < 700:
        size = mtu.probe(now, 1e9, 0.001)
        if size:
            sent.append((round(now), size))
        now = mtu.deadline(0.0) if mtu.trying else now + 0.5
        mtu.expire(now, 0.0)
    assert [size for _, size in sent[:4]] == [4096] * 4
    assert [when for when, _ in sent[:3]] == [0, 1, 3]
    assert 600 <= sent[3][0] <= 605


def test_a_size_the_local_stack_refuses_is_never_tried_again() -> None:
    _, _, client = pair(mtu=65_536)
    client.daemon.objects[b"o"] = bytearray(CONTENT)
    work(client, megabytes=1)
    client.endpoint.refused(client.clock.now, 16_384)
    assert client.endpoint._outbox.size == 8192
    work(client, megabytes=1)
    assert client.endpoint._mtu.size == 8192
