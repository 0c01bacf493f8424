"""Client cores of the simulation: a register client (durable) and an image client (unstable writes and flush)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from store.errors import Status
from store.wire.header import Op as Kind
from tests.simulation.checkers import NEVER, Op
from tests.simulation.disk import COUNTER

if TYPE_CHECKING:
    from tests.simulation.world import World

WINDOW = 8
Plan = list[tuple[Kind, bytes]]


class Request(NamedTuple):
    client: str
    group: int
    serial: int
    sequence: int
    floor: int
    op: Kind
    key: bytes
    value: int | None
    lock: int  # 0: no lock
    durable: bool


class Answer(NamedTuple):
    group: int
    serial: int
    sequence: int
    status: Status
    value: int | None  # of a read; the sum for a counter
    verifier: int
    hint: int | None  # the primary's device number


class Flight:
    """One request under way."""

    __slots__ = ("covers", "entry", "issued", "request", "sent", "told", "until")

    def __init__(self, request: Request, issued: float, entry: Op | None = None, until: float = NEVER) -> None:
        self.request = request
        self.issued = issued
        self.sent = issued
        self.entry = entry
        self.until = until
        self.told = False  # where to go, by the last answer
        self.covers: list[Kept] = []


class Kept(NamedTuple):
    """An acknowledged unstable write."""

    block: bytes
    value: int
    verifier: int
    sequence: int


class Lane:
    """A session with one group."""

    def __init__(self, world: World, group: int) -> None:
        self.group = group
        self.serial = world.next_serial()
        self.sequence = 0
        self.target = world.rng.choice(world.members)
        self.flight: dict[int, Flight] = {}

    def next(self) -> int:
        self.sequence += 1
        return self.sequence

    def floor(self) -> int:
        return min([*self.flight, self.sequence])


class Client:
    resend = 0.5

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.lanes = {group: Lane(world, group) for group in world.groups}

    def transmit(self, now: float, lane: Lane, flight: Flight) -> None:
        flight.sent = now
        self.world.send(self.name, lane.target, flight.request)

    def elsewhere(self, lane: Lane, hint: int | None = None) -> None:
        """Follow the hint, or try another member."""
        rng = self.world.rng
        follow = hint is not None and rng.random() < 0.8
        lane.target = hint if follow and hint is not None else rng.choice(self.world.members)

    def tick(self, now: float) -> None:
        raise NotImplementedError

    def receive(self, now: float, m: Answer) -> None:
        raise NotImplementedError

    def retry(self, now: float, lane: Lane, flight: Flight) -> None:
        """No answer, or one that said where to go."""
        if not flight.told and self.world.rng.random() < 0.6:
            self.elsewhere(lane)
        flight.told = False
        self.transmit(now, lane, flight)

    def turned_away(self, now: float, lane: Lane, flight: Flight, m: Answer) -> bool:
        """REDIRECT and BUSY: the same request again, perhaps elsewhere."""
        if m.status not in (Status.REDIRECT, Status.BUSY, Status.UNKNOWN_GROUP):
            return False
        self.elsewhere(lane, m.hint)
        flight.told = m.hint is not None
        if m.status == Status.REDIRECT and m.hint is not None and now - flight.sent > 0.1:
            self.transmit(now, lane, flight)
        return True


class RegisterClient(Client):
    """One operation at a time; gives up after a while and goes on."""

    def __init__(self, name: str, world: World, keys: dict[bytes, int], plan: Plan | None = None) -> None:
        super().__init__(name, world)
        self.keys = keys  # key -> group
        self.plan = plan
        self.op: Flight | None = None
        self.next_at = world.now + world.rng.random()
        self.abandoned: dict[int, list[Op]] = {group: [] for group in world.groups}  # over once a later write is done

    def finished(self) -> bool:
        return self.plan == [] and self.op is None

    def tick(self, now: float) -> None:
        if self.op is None:
            idle = self.plan == [] or (self.plan is None and now >= self.world.stop_at)
            if now >= self.next_at and not idle:
                self._begin(now, *(self.plan[0] if self.plan else self._choose()))
        elif now > self.op.until:
            self.give_up(now, NEVER)
        elif now - self.op.sent > self.resend:
            lane = self.lanes[self.op.request.group]
            self.retry(now, lane, self.op)

    def _choose(self) -> tuple[Kind, bytes]:
        rng = self.world.rng
        key = rng.choice(list(self.keys))
        if key.startswith(COUNTER):
            return rng.choice((Kind.READ, Kind.WRITE, Kind.WRITE)), key
        return rng.choice((Kind.READ, Kind.READ, Kind.REPLACE, Kind.REPLACE, Kind.DELETE)), key

    def _begin(self, now: float, op: Kind, key: bytes) -> None:
        world = self.world
        lane = self.lanes[self.keys[key]]
        sequence = lane.next()
        value = world.next_value() if op == Kind.REPLACE else None
        entry = world.registers.begin(now, key, {Kind.READ: "r", Kind.WRITE: "a"}.get(op, "w"), value)
        request = Request(self.name, lane.group, lane.serial, sequence, sequence, op, key, value, 0, True)
        self.op = Flight(request, now, entry, NEVER if self.plan is not None else now + world.rng.uniform(3.0, 9.0))
        if world.rng.random() < 0.15:
            self.elsewhere(lane)  # a stale map
        self.transmit(now, lane, self.op)

    def give_up(self, now: float, ended: float) -> None:
        assert self.op is not None and self.op.entry is not None
        flight, self.op = self.op, None
        entry = flight.entry
        assert entry is not None
        entry.ended = ended
        if flight.request.op != Kind.READ and ended == NEVER:
            self.abandoned[flight.request.group].append(entry)
        self.next_at = now + self.world.rng.uniform(0.05, 0.4)

    def receive(self, now: float, m: Answer) -> None:
        op = self.op
        if op is None or (m.group, m.serial, m.sequence) != (op.request.group, op.request.serial, op.request.sequence):
            return
        lane = self.lanes[m.group]
        if self.turned_away(now, lane, op, m):
            return
        if m.status in (Status.NO_SESSION, Status.STALE):
            self.give_up(now, now)  # cannot take effect any more
            lane.serial, lane.sequence = self.world.next_serial(), 0
            return
        self._done(now, op, m)

    def _done(self, now: float, flight: Flight, m: Answer) -> None:
        self.op = None
        entry, op = flight.entry, flight.request.op
        assert entry is not None
        entry.ended, entry.optional = now, False
        if op in (Kind.READ, Kind.WRITE):
            entry.value = m.value
        if op != Kind.READ:
            for other in self.abandoned[m.group]:  # their sequences are below the floor now
                other.ended = min(other.ended, now)
            self.abandoned[m.group] = []
        if self.plan:
            self.plan.pop(0)
        self.next_at = now + self.world.rng.uniform(0.01, 0.2)


class ImageClient(Client):
    """Holder of an image lock: unstable writes, kept until a flush answers with the same verifier (R34-R36)."""

    def __init__(self, name: str, world: World, blocks: dict[bytes, int], plan: Plan | None = None) -> None:
        super().__init__(name, world)
        self.blocks = blocks  # block -> group
        self.plan = plan
        self.lock = world.next_lock()
        self.kept: list[Kept] = []
        self.again: list[Kept] = []
        self.fenced: dict[int, None] = {}  # groups whose fence is done
        self.flushing: set[tuple[bytes, int]] | None = None  # the user's flush: what it must cover
        self.unflushed: dict[int, None] = {}  # groups that still owe the flush an answer
        self.over = False
        self.next_at = world.now
        for group in world.groups:
            self._begin(world.now, Kind.FENCE, b"", group)

    @property
    def held(self) -> bool:
        return len(self.fenced) == len(self.lanes)

    def flights(self) -> list[Flight]:
        return [flight for lane in self.lanes.values() for flight in lane.flight.values()]

    def finished(self) -> bool:
        return self.over or (self.plan == [] and not self.flights() and self.flushing is None)

    def _begin(self, now: float, op: Kind, key: bytes, group: int, value: int | None = None) -> Flight:
        lane = self.lanes[group]
        sequence = lane.next()
        durable = op in (Kind.FENCE, Kind.FLUSH)
        request = Request(self.name, group, lane.serial, sequence, lane.floor(), op, key, value, self.lock, durable)
        flight = lane.flight[sequence] = Flight(request, now)
        if op == Kind.REPLACE and value is not None:
            self.world.image.wrote(self.lock, key, value)
        self.transmit(now, lane, flight)
        return flight

    def tick(self, now: float) -> None:
        if self.over:
            return
        for lane in self.lanes.values():
            for flight in list(lane.flight.values()):
                if now - flight.sent > self.resend:
                    self.retry(now, lane, flight)
        if self.held and now >= self.next_at and len(self.flights()) < 4:
            self._step(now)

    def _step(self, now: float) -> None:
        self.next_at = now + self.world.rng.uniform(0.02, 0.25)
        busy = {flight.request.key for flight in self.flights()}
        self.again = [kept for kept in self.again if kept in self.kept]  # only what is still the newest of its block
        if self.again:
            if self.again[0].block not in busy:
                kept = self.again.pop(0)
                self._begin(now, Kind.REPLACE, kept.block, self.blocks[kept.block], kept.value)
        elif self.flushing is not None:
            self._flush(now)
        elif self.plan is not None or now <= self.world.stop_at:
            self._something(now, busy)

    def _flush(self, now: float) -> None:
        """A flush record in every group that still owes one, once nothing that it must cover is on its way."""
        assert self.flushing is not None
        flights = self.flights()
        if any((f.request.key, f.request.value) in self.flushing for f in flights if f.request.op == Kind.REPLACE):
            return
        for group in self.unflushed:
            if not any(f.request.op == Kind.FLUSH and f.request.group == group for f in flights):
                covers = [kept for kept in self.kept if self.blocks[kept.block] == group]
                self._begin(now, Kind.FLUSH, b"", group).covers = covers

    def _something(self, now: float, busy: set[bytes]) -> None:
        rng = self.world.rng
        if self.plan == []:
            return
        if self.plan:
            op, block = self.plan[0]
            if block in busy:
                return
            self.plan.pop(0)
        else:
            op = rng.choice((Kind.REPLACE, Kind.REPLACE, Kind.READ, Kind.FLUSH))
            block = rng.choice(list(self.blocks))
        if op == Kind.FLUSH:
            self.flushing = {(kept.block, kept.value) for kept in self.kept}
            self.unflushed = dict.fromkeys(self.lanes)
        elif block not in busy:
            if op == Kind.REPLACE:
                self._begin(now, op, block, self.blocks[block], self.world.next_value())
            elif not self.reads_own(block):
                self._begin(now, op, block, self.blocks[block])

    def reads_own(self, block: bytes) -> bool:
        """R34: a block whose newest write is kept is read from there."""
        return any(kept.block == block for kept in self.kept)

    def receive(self, now: float, m: Answer) -> None:
        lane = self.lanes[m.group]
        flight = lane.flight.get(m.sequence)
        if flight is None or m.serial != flight.request.serial or self.over:
            return
        if self.turned_away(now, lane, flight, m):
            return
        if m.status == Status.FENCED:
            self.over = True
        elif m.status in (Status.NO_SESSION, Status.STALE):
            self._new_session(now, lane)
        else:
            del lane.flight[m.sequence]
            self._done(now, flight, m)

    def _done(self, now: float, flight: Flight, m: Answer) -> None:
        r, image = flight.request, self.world.image
        if r.op == Kind.FENCE:
            self.fenced[r.group] = None
            if self.held:
                image.begin(now, self.lock)
        elif r.op == Kind.REPLACE:
            assert r.value is not None
            image.acked(self.lock, flight.issued, r.key, r.value)
            self.kept = [kept for kept in self.kept if kept.block != r.key]
            self.kept.append(Kept(r.key, r.value, m.verifier, m.sequence))
        elif r.op == Kind.READ:
            image.read(self.lock, flight.issued, r.key, m.value)
        else:
            self._flushed(r.group, flight, m.verifier)

    def lost(self, flight: Flight, verifier: int) -> list[Kept]:
        """R35: covered writes that were acknowledged under another verifier."""
        return [kept for kept in flight.covers if kept.verifier != verifier]

    def _flushed(self, group: int, flight: Flight, verifier: int) -> None:
        """What has this verifier is durable; the rest was perhaps lost and goes again, in order."""
        lost = self.lost(flight, verifier)
        self.kept = [kept for kept in self.kept if kept not in flight.covers or kept in lost]
        self.again += [kept for kept in lost if kept in self.kept]
        if lost:
            return  # flush this group again, once they are back
        self.unflushed.pop(group, None)
        if not self.unflushed and self.flushing is not None:
            for block, value in sorted(self.flushing):
                self.world.image.flushed(self.lock, block, value)
            self.flushing = None

    def _new_session(self, now: float, lane: Lane) -> None:
        """The table forgot this session: all that is in flight goes again under a new one."""
        flights = [flight for _, flight in sorted(lane.flight.items())]
        lane.serial, lane.sequence, lane.flight = self.world.next_serial(), 0, {}
        for old in flights:
            sequence = lane.next()
            request = old.request._replace(serial=lane.serial, sequence=sequence, floor=1)
            again = lane.flight[sequence] = Flight(request, old.issued)
            again.covers = old.covers
            self.transmit(now, lane, again)
