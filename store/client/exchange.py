"""Operations in, datagrams out: everything between a client's shell and its socket, without the socket. Pure.

An Exchange owns one endpoint per device. The shell gives it operations and received buffers and the time; it takes
finished operations, buffers to send, and the time of the next tick. Several exchanges (one per socket of a blocking
client) share a Router; `guard` is held around every use of it.
"""

from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from store.addresses import Address
from store.client.operation import Operation
from store.client.routing import Router, Want
from store.errors import Status
from store.ids import DeviceId
from store.limits import CLIENT_BACKOFF_MIN_S, CLIENT_SILENCE_S, CLIENT_SUSPECT_SILENCE_S
from store.session.endpoint import Completion, Endpoint
from store.wire.header import HEADER, Op

_SESSION_AT: Final = 8  # offset of the session id in a datagram's header


class Source(NamedTuple):
    """What a session is made from; when the opener would take another, the session is not used for new requests."""

    address: Address
    ticket: bytes


class Peer:
    """One endpoint, where to send what it says, and when its device last spoke."""

    __slots__ = ("address", "device", "endpoint", "heard", "in_flight", "patience", "session_id", "source")

    def __init__(self, device: DeviceId, source: Source, address: Address, session_id: int, endpoint: Endpoint) -> None:
        self.device, self.source, self.session_id = device, source, session_id
        self.address = address  # numeric; `source` has it as the map does
        self.endpoint = endpoint
        self.heard = 0.0
        self.patience = CLIENT_SILENCE_S  # shorter after a silence, until it speaks again
        self.in_flight: dict[int, Operation] = {}  # by request number


class Outgoing(NamedTuple):
    """A buffer to send; valid until the exchange is asked for the next ones."""

    view: memoryview
    segment: int  # cut it into datagrams of this size; 0: it is one
    address: Address


class Opener(Protocol):
    """Makes sessions with devices from the ticket at hand; the shell's, since session ids are random."""

    def source(self, device: DeviceId, serial: int) -> Source | None:
        """None: no address, or no key of this serial's ticket for this device."""

    def open(self, now: float, device: DeviceId, source: Source) -> Peer: ...


class Exchange:
    """The requests of one socket."""

    def __init__(self, router: Router, opener: Opener, guard: AbstractContextManager[object]) -> None:
        self.router = router
        self._opener, self._guard = opener, guard
        self._peers: dict[tuple[DeviceId, int], Peer] = {}
        self._by_session: dict[int, Peer] = {}
        self._active: dict[int, Peer] = {}  # peers with something in flight or to send, by session id
        self._waiting: list[Operation] = []
        self._finished: list[Operation] = []

    # --- in ----------------------------------------------------------------------------------------------------------

    def submit(self, now: float, operation: Operation) -> None:
        """Begins an operation; it will be among the finished ones by `operation.until`."""
        if now >= operation.until:
            with self._guard:
                self.router.give_up(now, operation)
            self._finished.append(operation)
        else:
            self._attempt(now, operation)

    def receive(self, now: float, view: memoryview) -> None:
        """One received buffer: several datagrams of one device if the kernel joined them."""
        if len(view) < HEADER.size:
            return
        peer = self._by_session.get(int.from_bytes(view[_SESSION_AT : _SESSION_AT + 8], "little"))
        if peer is None:
            return
        peer.heard = now
        peer.patience = CLIENT_SILENCE_S
        self._active[peer.session_id] = peer
        peer.endpoint.receive(now, view)

    def tick(self, now: float) -> None:
        """Resends, expiries, silence, and operations whose pause is over."""
        for peer in list(self._active.values()):
            peer.endpoint.tick(now)
            self._end_silent(now, peer)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for operation in waiting:
                if now >= operation.until:
                    with self._guard:
                        self.router.give_up(now, operation)
                    self._finished.append(operation)
                elif now >= operation.not_before:
                    self._attempt(now, operation)
                else:
                    self._waiting.append(operation)

    def cancel(self, operation: Operation) -> None:
        """Forget an operation at once; what was read into its buffer so far stays, nothing more is written to it."""
        for peer in self._active.values():
            if peer.in_flight.pop(operation.number, None) is operation:
                peer.endpoint.cancel(operation.number)
        self._waiting = [other for other in self._waiting if other is not operation]
        with self._guard:
            self.router.give_up(0.0, operation)

    # --- out ---------------------------------------------------------------------------------------------------------

    def finished(self, now: float) -> list[Operation]:
        """Operations that have their answer; each is returned once."""
        for peer in tuple(self._active.values()):
            completions = peer.endpoint.completions()
            if completions:
                self._settle(now, peer, completions)
            if not peer.in_flight:
                self._active.pop(peer.session_id, None)
        finished = self._finished
        if finished:
            self._finished = []
        return finished

    def transmit(self, now: float) -> list[Outgoing]:
        """What to send now."""
        return [
            Outgoing(view, segment, peer.address)
            for peer in self._active.values()
            for view, segment in peer.endpoint.transmit(now)
        ]

    def deadline(self) -> float | None:
        """When to tick next, if nothing is received before."""
        times = [operation.not_before for operation in self._waiting]
        for peer in self._active.values():
            at = peer.endpoint.deadline()
            if at is not None:
                times.append(at)
            if peer.in_flight:
                times.append(self._last_sign(peer) + peer.patience)
        return min(times, default=None)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _attempt(self, now: float, operation: Operation) -> None:
        router = self.router
        with self._guard:
            if not router.start(now, operation):
                self._waiting.append(operation)
                return
        device, table = operation.device, operation.table
        assert device is not None
        serial = router.session.serial if table is None else table.serial
        peer = self._peers.get((device, serial)) or self._meet(now, device, serial)
        if peer is None:
            with self._guard:
                router.wants.add(Want.TICKET)
            operation.not_before = now + CLIENT_BACKOFF_MIN_S * 8
            operation.device = None
            self._waiting.append(operation)
            return
        endpoint = peer.endpoint
        order = router.storage_map.generation << 32
        if operation.op == Op.READ:
            number = endpoint.read(
                now, operation.group, operation.name, operation.offset, len(operation.into), operation.into,
                order=order, scope=operation.scope, generation=operation.generation, flags=operation.flags,
                deadline=operation.attempt_ends,
            )  # fmt: skip
        else:
            sequence = operation.sequence
            number = endpoint.request(
                now, operation.op, operation.group, operation.name, order=order, sequence=sequence,
                floor=sequence if table is None else table.floor(sequence), scope=operation.scope,
                generation=operation.generation, offset=operation.offset, size=operation.size,
                payload=operation.payload, flags=operation.flags, deadline=operation.attempt_ends,
            )  # fmt: skip
        operation.number = number
        peer.in_flight[number] = operation
        self._active[peer.session_id] = peer

    def _meet(self, now: float, device: DeviceId, serial: int) -> Peer | None:
        source = self._opener.source(device, serial)
        if source is None:
            return None
        peer = self._opener.open(now, device, source)
        self._peers[device, serial] = peer
        self._by_session[peer.session_id] = peer
        return peer

    def renew(self) -> None:
        """The map or the tickets have changed: where address or ticket are others, later attempts open new sessions.

        Requests under way end in the sessions they began in.
        """
        source = self._opener.source
        self._peers = {key: peer for key, peer in self._peers.items() if source(*key) == peer.source}
        used = {peer.session_id for peer in self._peers.values()}
        self._by_session = {
            session_id: peer for session_id, peer in self._by_session.items() if peer.in_flight or session_id in used
        }

    def _settle(self, now: float, peer: Peer, completions: list[Completion]) -> None:
        for completion in completions:
            operation = peer.in_flight.pop(completion.number, None)
            if operation is None:
                continue
            operation.order, operation.verifier = completion.order, completion.verifier
            operation.version, operation.object_size = completion.version, completion.object_size
            operation.data, operation.length = completion.data, completion.length
            self._judge(now, operation, completion.status)

    def _judge(self, now: float, operation: Operation, status: int) -> None:
        with self._guard:
            done = self.router.settle(now, operation, status, operation.data)
        if done:
            self._finished.append(operation)
        elif now >= operation.not_before:
            self._attempt(now, operation)
        else:
            self._waiting.append(operation)

    @staticmethod
    def _last_sign(peer: Peer) -> float:
        """When the device last spoke, or when it was asked first of what it owes, whichever is later."""
        oldest = next(iter(peer.in_flight.values()))
        return max(peer.heard, oldest.started)

    def _end_silent(self, now: float, peer: Peer) -> None:
        if not peer.in_flight or now < self._last_sign(peer) + peer.patience:
            return
        peer.patience = CLIENT_SUSPECT_SILENCE_S
        with self._guard:
            self.router.suspect(now, peer.device)
        for number, operation in list(peer.in_flight.items()):
            peer.endpoint.cancel(number)
            del peer.in_flight[number]
            self._judge(now, operation, Status.TIMEOUT)
