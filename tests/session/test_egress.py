"""The daemon's send queue: fair shares of a capped uplink, a short queue, BUSY instead of a long one."""

from random import Random

from store.errors import Status
from store.session.completion import Completion
from store.wire.header import Flag
from tests.session.world import GROUP, Client, Clock, Daemon, Link

CONTENT = Random(2).randbytes(1_000_000)


def clients(count: int, *, uplink: float = 20e6) -> tuple[Clock, Daemon, list[Client], Link]:
    """A daemon on an uplink of so many bit/s that all clients share, capped."""
    clock = Clock(4)
    daemon = Daemon(clock, uplink=uplink / 8)
    daemon.objects[b"o"] = bytearray(CONTENT)
    down = Link(clock, rate=uplink, delay=0.02, buffer=0.1)
    made = [
        Client(clock, daemon, Link(clock, rate=1e9, delay=0.02), down, session=n + 1, address=("10.0.0.2", n))
        for n in range(count)
    ]
    return clock, daemon, made, down


def stream(client: Client, totals: dict[int, int], *, flags: int = 0) -> None:
    """Read for ever."""
    into = memoryview(bytearray(len(CONTENT)))

    def start() -> None:
        client.endpoint.read(
            client.clock.now, GROUP, b"o", 0, len(CONTENT), into, flags=flags, deadline=client.clock.now + 60
        )

    def done(completion: Completion) -> None:
        assert completion.status is Status.OK
        totals[id(client)] = totals.get(id(client), 0) + completion.length
        start()

    client.on_done = done
    start()
    start()
    client.pump()


def received(client: Client, totals: dict[int, int]) -> int:
    reads = client.endpoint._reader.reads.values()
    return totals.get(id(client), 0) + sum(read.got.total for read in reads if read.got is not None)


def test_sessions_share_a_capped_uplink_evenly_with_hardly_a_queue_behind_it() -> None:
    clock, _, made, down = clients(6)
    totals: dict[int, int] = {}
    for client in made:
        stream(client, totals)
    clock.run(4.0)
    before = [received(client, totals) for client in made]
    clock.run(6.0)
    shares = [received(client, totals) - start for client, start in zip(made, before, strict=True)]
    assert sum(shares) * 8 / 6 > 0.9 * 0.9 * 0.92 * 20e6  # the cap, less headers
    assert sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) > 0.98
    assert down.queue_p95() < 0.008
    assert down.dropped == 0


def test_background_waits_behind_foreground_and_still_moves() -> None:
    clock, _, made, _ = clients(2)
    totals: dict[int, int] = {}
    stream(made[0], totals, flags=int(Flag.BACKGROUND))
    clock.run(3.0)
    stream(made[1], totals)
    clock.run(3.0)
    before = [received(client, totals) for client in made]
    clock.run(5.0)
    background, foreground = (received(client, totals) - start for client, start in zip(made, before, strict=True))
    assert background * 4 < foreground
    assert background > 0


def test_a_full_queue_says_busy() -> None:
    _, daemon, made, _ = clients(1, uplink=1e6)
    client = made[0]
    numbers = [client.read(b"o", n * 1000, 1000)[0] for n in range(10)]
    client.wait(*numbers)
    path = client.endpoint._reader.paths()[0]
    path.tide.window = 1e9  # a client that respects no window
    path.pace = 1e12
    numbers = [client.read(b"o", n * 1000, 1000)[0] for n in range(500)]
    done = client.wait(*numbers)
    busy = [completion for completion in done if completion.status is Status.BUSY]
    assert busy and all(5 <= completion.length <= 2000 for completion in busy)
    assert daemon.service.counters.busy >= len(busy)


def test_nothing_is_sent_that_nobody_waits_for() -> None:
    clock, daemon, made, down = clients(1, uplink=1e6)
    client = made[0]
    client.wait(client.read(b"o", 0, 1000)[0])
    path = client.endpoint._reader.paths()[0]
    path.tide.window = 1e9
    path.pace = 1e12
    numbers = [client.read(b"o", n * 1000, 1000, seconds=0.5)[0] for n in range(200)]
    client.wait(*numbers)
    sent = down.sent
    clock.run(3.0)
    assert down.sent - sent < 20
    assert daemon.service.counters.expired_deadlines > 50
    assert daemon.service.ready == 0


def test_a_large_read_waits_out_a_full_queue_by_itself() -> None:
    _, daemon, made, _ = clients(1, uplink=5e6)
    client = made[0]
    client.wait(client.read(b"o", 0, 1000)[0])
    path = client.endpoint._reader.paths()[0]
    path.tide.window = 1e9
    path.pace = 1e12
    number, into = client.read(b"o", 0, len(CONTENT))
    assert client.wait(number)[0].status is Status.OK
    assert into == CONTENT
    assert daemon.service.counters.busy
