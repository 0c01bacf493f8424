"""A daemon and its clients on a simulated network, in virtual time; one seed decides every loss and delay."""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from store.crypto.keys import KeyRing, Secrets, derive_ticket_key
from store.crypto.ticket import Cap, Right, Ticket, seal_ticket
from store.errors import Status
from store.session.completion import Completion
from store.session.credit import Credit
from store.session.endpoint import Endpoint
from store.session.service import Service
from store.wire.header import Op
from store.wire.message import Request

SECRET = bytes(range(32))
GROUP = 1 << 16 | 5
WALL = 1_800_000_000.0
AROUND = 28  # IP and UDP headers


def ticket(*, pool: int = 0, rights: int = int(Right.data()), prefix: bytes = b"", not_after: int = 1 << 40,
           key_epoch: int = 1, serial: int = 7) -> bytes:
    return seal_ticket(Ticket(1, bytes(16), "client", serial, key_epoch, not_after, (Cap(pool, rights, prefix),)))


class Clock:
    """Events in order of time."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
            if until():
                return
        self.now = end


class Link:
    """One direction: a rate, a drop-tail buffer, a delay, and faults."""

    def __init__(
        self, clock: Clock, *, rate: float = 1e9, delay: float = 0.0005, buffer: float = 0.1, loss: float = 0.0,
        late: float = 0.0, late_by: float = 0.0, twice: float = 0.0, mtu: int = 65_535,
    ) -> None:
        """`rate` in bit/s, `delay` and `buffer` in seconds; `late`, `twice`: shares delayed and duplicated."""
        self.clock, self.rate, self.delay, self.loss = clock, rate / 8, delay, loss
        self.late, self.late_by, self.twice, self.mtu = late, late_by, twice, mtu
        self.room = max(buffer * self.rate, 3000)
        self.free = 0.0
        self.sent = self.dropped = 0
        self.queues: list[float] = []
        self.down = False

    def send(self, data: bytes, deliver: Callable[[bytes], None]) -> None:
        now, random = self.clock.now, self.clock.random.random
        size = len(data) + AROUND
        start = max(self.free, now)
        self.sent += 1
        self.queues.append(start - now)
        if self.down or size > self.mtu or (start - now) * self.rate + size > self.room:
            self.dropped += 1
            return
        self.free = start + size / self.rate
        if random() < self.loss:
            return
        arrival = self.free + self.delay + (self.late_by if random() < self.late else 0.0)
        self.clock.at(arrival, lambda: deliver(data))
        if random() < self.twice:
            self.clock.at(arrival + self.delay, lambda: deliver(data))

    def queue_p95(self) -> float:
        queues = sorted(self.queues[len(self.queues) // 5 :])
        return queues[len(queues) * 95 // 100] if queues else 0.0


def cut(view: memoryview, segment: int) -> list[bytes]:
    if not segment:
        return [bytes(view)]
    return [bytes(view[at : at + segment]) for at in range(0, len(view), segment)]


class Daemon:
    """A Service with a dictionary for a disk."""

    def __init__(self, clock: Clock, *, uplink: float | None = None, life: int = 77) -> None:
        self.clock = clock
        self.objects: dict[bytes, bytearray] = {}
        self.holes: dict[bytes, list[tuple[int, int]]] = {}
        self.versions: dict[bytes, int] = {}
        self.uplink = uplink
        self.slowness: Callable[[], float] = lambda: 0.0
        self.write_delay = 0.0
        self.routes: dict[Any, tuple[Link, Callable[[bytes], None]]] = {}
        self.served = 0
        self.written: list[tuple[int, int]] = []  # serial and sequence of what was applied
        self.tap: Callable[[bytes, Any], None] = lambda data, address: None
        self.start(life)

    def start(self, life: int) -> None:
        ring = KeyRing(Secrets(1, {1: SECRET}))
        self.service = Service(
            self.clock.now, ring, life, int(self.clock.now * 1e6), uplink=self.uplink
        )
        self._wake_at = -1.0

    def receive(self, data: bytes, address: Any) -> None:
        now, service = self.clock.now, self.service
        service.receive(now, WALL, memoryview(data), address)
        requests, service.requests = service.requests, []
        for request in requests:
            self._handle(request, service)
        self.pump()
        service.release()

    def _handle(self, request: Request, service: Service) -> None:
        wait = self.slowness() if request.op == Op.READ else self.write_delay
        if request.op >= Op.WRITE:
            payload = bytes(request.payload)  # the arena is reused
            self.clock.at(self.clock.now + wait, lambda: self._write(request, payload, service))
        elif wait:
            service.defer(self.clock.now, request)
            self.clock.at(self.clock.now + wait, lambda: self._read(request, service))
        else:
            self._read(request, service)

    def _write(self, request: Request, payload: bytes, service: Service) -> None:
        if service is not self.service:
            return
        mark = (request.serial, request.sequence)
        if mark not in self.written:
            self.written.append(mark)
            held = self.objects.setdefault(request.name, bytearray())
            end = request.offset + len(payload)
            if len(held) < end:
                held.extend(bytes(end - len(held)))
            held[request.offset : end] = payload
            self.versions[request.name] = self.versions.get(request.name, 0) + 1
        service.reply(request, Status.OK, version=self.versions[request.name], verifier=3, order=1)
        self.pump()

    def _read(self, request: Request, service: Service) -> None:
        if service is not self.service:
            return
        held = self.objects.get(request.name)
        if held is None:
            service.reply(request, Status.NOT_FOUND)
        elif request.op == Op.STAT:
            service.reply(request, Status.OK, object_size=len(held))
        elif request.op == Op.LIST:
            service.reply(request, Status.OK, data=b"x" * min(500, service.room(request)))
        elif request.sequence and request.sequence != self.versions.get(request.name, 1):
            service.reply(request, Status.CONFLICT)
        else:
            self._answer(request, service, held)
        self.pump()

    def _answer(self, request: Request, service: Service, held: bytearray) -> None:
        slots = service.begin_data(request)
        if slots is None:
            return
        self.served += 1
        for start, views in slots:
            offset = start
            for view in views:
                piece = held[offset : offset + len(view)]
                view[: len(piece)] = piece
                offset += len(view)
        service.end_data(
            order=1, verifier=3, version=self.versions.get(request.name, 1), object_size=len(held),
            holes=self.holes.get(request.name, ()),
        )

    def pump(self) -> None:
        """Send what the service has, and wake up when it wants."""
        for view, segment, address in self.service.transmit(self.clock.now):
            link, deliver = self.routes[address]
            for data in cut(view, segment):
                self.tap(data, address)
                link.send(data, deliver)
        deadline = self.service.deadline(self.clock.now)
        if deadline is not None and not self.clock.now < self._wake_at <= deadline:
            self._wake_at = max(deadline, self.clock.now + 1e-5)
            self.clock.at(self._wake_at, self._wake)

    def _wake(self) -> None:
        self.service.tick(self.clock.now, WALL)
        self.pump()


class Client:
    """An Endpoint, its link to the daemon and back."""

    def __init__(
        self, clock: Clock, daemon: Daemon, up: Link, down: Link, *, address: tuple[str, int] = ("10.0.0.1", 4000),
        session: int = 11, credit: Credit | None = None, sealed: bytes | None = None, mtu: int = 1428,
    ) -> None:
        data = ticket() if sealed is None else sealed
        self.clock, self.daemon, self.up, self.down, self.address = clock, daemon, up, down, address
        self.endpoint = Endpoint(
            clock.now, session, data, derive_ticket_key(SECRET, data), credit or Credit(64 << 20), mtu_hint=mtu
        )
        self.done: dict[int, Completion] = {}
        self.on_done: Callable[[Completion], None] = lambda completion: None
        self._wake_at = -1.0
        self.tap: Callable[[bytes], None] = lambda data: None
        daemon.routes[address] = (down, self.receive)

    def move(self, address: tuple[str, int]) -> None:
        self.address = address
        self.daemon.routes[address] = (self.down, self.receive)

    def receive(self, data: bytes) -> None:
        self.endpoint.receive(self.clock.now, memoryview(data))
        self.pump()

    def pump(self) -> None:
        now, endpoint = self.clock.now, self.endpoint
        for completion in endpoint.completions():
            self.done[completion.number] = completion
            self.on_done(completion)
        for view, segment in endpoint.transmit(now):
            for data in cut(view, segment):
                self.tap(data)
                self.up.send(data, self._deliver(self.address))
        deadline = endpoint.deadline()
        if deadline is not None and not now < self._wake_at <= deadline:
            self._wake_at = max(deadline, now + 1e-5)
            self.clock.at(self._wake_at, self._wake)

    def _deliver(self, address: tuple[str, int]) -> Callable[[bytes], None]:
        return lambda data: self.daemon.receive(data, address)

    def _wake(self) -> None:
        self.endpoint.tick(self.clock.now)
        self.pump()

    def read(
        self, name: bytes, offset: int, length: int, *, seconds: float = 30.0, flags: int = 0
    ) -> tuple[int, bytearray]:
        into = bytearray(b"\xee" * length)
        number = self.endpoint.read(
            self.clock.now, GROUP, name, offset, length, memoryview(into), flags=flags,
            deadline=self.clock.now + seconds,
        )
        self.pump()
        return number, into

    def request(self, op: int, name: bytes, *, seconds: float = 30.0, **fields: Any) -> int:
        number = self.endpoint.request(
            self.clock.now, op, GROUP, name, deadline=self.clock.now + seconds, **fields
        )
        self.pump()
        return number

    def wait(self, *numbers: int, seconds: float = 60.0) -> list[Completion]:
        self.clock.run(seconds, lambda: all(number in self.done for number in numbers))
        return [self.done[number] for number in numbers]


def pair(seed: int = 1, *, mtu: int = 1428, uplink: float | None = None, **link: Any) -> tuple[Clock, Daemon, Client]:
    """A daemon and one client on two links of the same kind."""
    clock = Clock(seed)
    daemon = Daemon(clock, uplink=uplink)
    client = Client(clock, daemon, Link(clock, **link), Link(clock, **link), mtu=mtu)
    return clock, daemon, client
