"""Exchanges, routing and sequences against real transport services over a network that loses, repeats and delays."""

import contextlib
import heapq
import random

import pytest

from store.client.exchange import Exchange, Peer, Source
from store.client.operation import Operation
from store.client.routing import Router, Want
from store.errors import Status
from store.ids import DeviceId
from store.session.credit import Credit
from store.session.endpoint import Endpoint
from store.wire.header import Flag, Op
from tests.client.daemons import Daemon, cluster, storage_map, ticket_for

CLIENT = ("client", 1)
WALL = 1000.0


class World:
    """Virtual time; one client; daemons by address. Loss, repetition and delay by the seed."""

    def __init__(self, seed: int, loss: float = 0.0, repeat: float = 0.0, delay: float = 0.002) -> None:
        self.rng = random.Random(seed)
        self.loss, self.repeat, self.delay = loss, repeat, delay
        self.now = 100.0
        self.events: list[tuple[float, int, int, bytes]] = []  # time, order, destination (-1: client), datagram
        self.count = 0
        self.state, self.daemons, self.map = cluster(self.now, [("d", port) for port in range(3)])
        self.serial = 10
        self.tickets = {self.serial: ticket_for(self.daemons, self.serial)}
        self.router = Router(self.map, self.serial)
        self.credit = Credit(1 << 24)
        self.exchange = Exchange(self.router, self, contextlib.nullcontext())
        self.done: list[Operation] = []

    def source(self, device: DeviceId, serial: int) -> Source | None:
        address = next(daemon.address for daemon in self.daemons if daemon.device == device)
        return Source(address, self.tickets[serial][0])

    def open(self, now: float, device: DeviceId, source: Source) -> Peer:
        session = self.rng.getrandbits(64)
        keys = next(keys for ticket, keys in self.tickets.values() if ticket == source.ticket)
        endpoint = Endpoint(now, session, source.ticket, keys[device], self.credit)
        return Peer(device, source, source.address, session, endpoint)

    def send(self, destination: int, view: memoryview, segment: int) -> None:
        size = segment or len(view)
        for start in range(0, len(view), size):
            for _ in range(1 + (self.rng.random() < self.repeat)):
                if self.rng.random() >= self.loss:
                    self.count += 1
                    at = self.now + self.rng.uniform(0.1, 1.0) * self.delay
                    heapq.heappush(self.events, (at, self.count, destination, bytes(view[start : start + size])))

    def turn(self) -> None:
        self.done += self.exchange.finished(self.now)
        for view, segment, address in self.exchange.transmit(self.now):
            self.send(address[1], view, segment)
        if self.router.wants:
            self.serve_wants()

    def serve_wants(self) -> None:
        wants, self.router.wants = self.router.wants, set()
        if Want.SESSION in wants:
            self.serial += 1
            self.tickets[self.serial] = ticket_for(self.daemons, self.serial)
            self.router.reopen(self.serial)
        if Want.MAP in wants:
            self.router.adopt(storage_map(self.state, self.daemons, int(self.now * 10)))
        self.exchange.renew()

    def step(self) -> None:
        """To the next thing that happens."""
        due = [at for at in (self.exchange.deadline(), self.events[0][0] if self.events else None) if at is not None]
        due += [at for daemon in self.daemons if daemon.alive and (at := daemon.service.deadline(self.now)) is not None]
        self.now = max(self.now, min(due, default=self.now) + 1e-6)
        while self.events and self.events[0][0] <= self.now:
            _, _, destination, datagram = heapq.heappop(self.events)
            view = memoryview(bytearray(datagram))
            if destination < 0:
                self.exchange.receive(self.now, view)
            elif self.daemons[destination].alive:
                self.daemons[destination].service.receive(self.now, WALL, view, CLIENT)
        for daemon in self.daemons:
            if daemon.alive:
                daemon.serve(self.now)
                daemon.service.tick(self.now, WALL)
                daemon.flush(self.now, lambda view, segment, address: self.send(-1, view, segment))
        self.exchange.tick(self.now)
        self.turn()

    def run(self, *operations: Operation) -> None:
        for operation in operations:
            self.exchange.submit(self.now, operation)
        self.turn()
        steps = 0
        while any(operation.status < 0 for operation in operations):
            self.step()
            steps += 1
            assert steps < 400_000, "an operation does not end"

    # --- operations

    def write(self, name: bytes, payload: bytes, *, seconds: float = 60.0, op: Op = Op.WRITE, offset: int = 0,
              scope: int = 0, generation: int = 0) -> Operation:  # fmt: skip
        return Operation(
            op, self.map.pools[0].group_of(name), name, self.now + seconds, payload=payload, size=len(payload),
            flags=Flag.DURABLE, offset=offset, scope=scope, generation=generation,
        )  # fmt: skip

    def read(self, name: bytes, length: int, *, offset: int = 0, seconds: float = 60.0) -> Operation:
        group = self.map.pools[0].group_of(name)
        return Operation(Op.READ, group, name, self.now + seconds, offset=offset, into=memoryview(bytearray(length)))

    def stat(self, name: bytes) -> Operation:
        return Operation(Op.STAT, self.map.pools[0].group_of(name), name, self.now + 60.0)

    def daemon_of(self, name: bytes) -> Daemon:
        device = self.state.primary[self.map.pools[0].group_of(name)]
        return next(daemon for daemon in self.daemons if daemon.device == device)


def contents(operation: Operation) -> bytes:
    return bytes(operation.into[: operation.length])


def test_writes_reads_and_stats() -> None:
    world = World(1)
    payload = random.Random(2).randbytes(300_000)
    world.run(world.write(b"a", b"hello"), world.write(b"big", payload))
    small, large, size, missing = world.read(b"a", 100), world.read(b"big", 300_000), world.stat(b"a"), world.stat(b"b")
    world.run(small, large, size, missing)
    assert contents(small) == b"hello" and small.status == Status.OK
    assert contents(large) == payload
    assert size.object_size == 5 and missing.status == Status.NOT_FOUND


@pytest.mark.parametrize("seed", range(6))
def test_every_write_takes_effect_once_however_often_it_is_sent(seed: int) -> None:
    """With loss, repetition and primaries that move about, each object ends as the last write left it."""
    world = World(seed, loss=0.1, repeat=0.1)
    rng, expected = random.Random(seed), {}
    for round_ in range(15):
        writes: list[Operation] = []
        for index in range(6):
            name = b"object.%d" % rng.randrange(10)
            payload = b"%d/%d" % (round_, index)
            if name in {operation.name for operation in writes}:
                continue
            writes.append(world.write(name, payload, op=Op.REPLACE))
            expected[name] = payload
        if rng.random() < 0.5:
            group = rng.choice(list(world.state.primary))
            world.state.move(group, rng.choice(world.daemons).device)
        world.run(*writes)
        assert [operation.status for operation in writes] == [Status.OK] * len(writes)
    for name, payload in expected.items():
        got = world.read(name, 100)
        world.run(got)
        assert contents(got) == payload
    assert set(world.state.applied.values()) == {1}


def test_a_large_read_survives_loss() -> None:
    world = World(5, loss=0.05)
    payload = random.Random(5).randbytes(1_000_000)
    got = world.read(b"big", 1_000_000)
    world.run(world.write(b"big", payload))
    world.run(got)
    assert contents(got) == payload


def test_a_dead_primary_is_replaced_and_the_write_goes_to_the_next() -> None:
    world = World(3)
    world.run(world.write(b"x", b"before"))
    dead = world.daemon_of(b"x")
    dead.alive = False
    operation = world.write(b"x", b"after!")
    world.exchange.submit(world.now, operation)
    world.turn()
    begin = world.now
    while world.now < begin + 8:
        world.step()
    assert operation.status < 0
    group = operation.group
    world.state.move(group, next(daemon.device for daemon in world.daemons if daemon is not dead))
    world.run(operation)
    assert operation.status == Status.OK
    assert world.now < begin + 12
    assert world.state.applied[b"after!"] == 1


def test_with_all_daemons_gone_operations_end_at_their_deadline() -> None:
    world = World(4)
    for daemon in world.daemons:
        daemon.alive = False
    write, read = world.write(b"x", b"1", seconds=5), world.read(b"x", 10, seconds=5)
    begin = world.now
    world.run(write, read)
    assert 5 <= world.now - begin < 5.5
    assert write.status == Status.TIMEOUT and write.outcome_unknown
    assert read.status == Status.TIMEOUT and not read.outcome_unknown


def test_an_abandoned_write_cannot_take_effect_after_the_next_one() -> None:
    """R33: the next request raises the floor; the old datagrams, delivered late, are refused."""
    world = World(6)
    world.run(world.write(b"x", b"first"))
    late = world.write(b"x", b"stale", seconds=0.5, op=Op.REPLACE)
    world.exchange.submit(world.now, late)
    world.turn()
    held, world.events = world.events, []
    while late.status < 0:
        world.step()
        world.events = [event for event in world.events if event[2] < 0]
    assert late.status == Status.TIMEOUT
    world.run(world.write(b"x", b"newer", op=Op.REPLACE))
    world.events = held
    for _ in range(50):
        world.step()
    got = world.read(b"x", 100)
    world.run(got)
    assert contents(got) == b"newer"
    assert b"stale" not in world.state.applied


def test_many_writes_to_one_group_stay_inside_the_window() -> None:
    world = World(7, delay=0.01)
    writes = [world.write(b"one", b"%05d" % index, offset=5 * index) for index in range(300)]
    world.run(*writes)
    assert all(operation.status == Status.OK for operation in writes)
    got = world.read(b"one", 1500)
    world.run(got)
    assert contents(got) == b"".join(b"%05d" % index for index in range(300))


def test_a_forgotten_session_is_replaced_and_plain_writes_are_reported() -> None:
    world = World(8)
    world.run(world.write(b"x", b"1"))
    world.state.forget_sessions()
    plain = world.write(b"x", b"2")
    world.run(plain)
    assert plain.status == Status.NO_SESSION and plain.outcome_unknown
    again = world.write(b"x", b"3")
    world.run(again)
    assert again.status == Status.OK


def test_a_forgotten_session_does_not_disturb_the_holder_of_an_image() -> None:
    world = World(9)
    world.run(world.write(b"i.0", b"1", scope=5, generation=1))
    world.state.forget_sessions()
    image = world.write(b"i.0", b"2", scope=5, generation=1)
    world.run(image)
    assert image.status == Status.OK
    assert world.state.applied[b"2"] == 1


def test_a_restarted_daemon_knows_the_session_again() -> None:
    world = World(10)
    world.run(world.write(b"x", b"1"))
    world.daemon_of(b"x").start(world.now, 2)
    got = world.read(b"x", 10)
    world.run(got)
    assert contents(got) == b"1"


def test_refusals_are_final() -> None:
    world = World(11)
    world.run(world.write(b"x", b"1"))
    exists = world.write(b"x", b"2", op=Op.CREATE)
    fenced = world.write(b"i", b"2", scope=9, generation=1)
    world.run(exists, Operation(Op.FENCE, fenced.group, b"", world.now + 9, scope=9, generation=2, flags=Flag.DURABLE))
    world.run(fenced)
    assert exists.status == Status.EXISTS and fenced.status == Status.FENCED
    world.state.full = True
    full = world.write(b"y", b"2")
    world.run(full)
    assert full.status == Status.NO_SPACE


def test_the_same_seed_gives_the_same_course() -> None:
    ends = []
    for _ in range(2):
        world = World(12, loss=0.2, repeat=0.2)
        writes = [world.write(b"n%d" % index, b"%d" % index) for index in range(20)]
        world.run(*writes)
        ends.append((world.count, [(operation.status, operation.attempts) for operation in writes]))
    assert ends[0] == ends[1]
