"""The daemon's face to clients: datagrams in, requests to the core, answers out; one batch a tick.

The way of a write through here: `received` (Service opens datagrams into its arena) -> `batch_done` -> `_order` (an
Entry whose record is packed in place, before name and payload) -> Executor.run -> ... -> `answer` (when committed).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog
import xxhash

from daemon.core.device import DeviceCore
from daemon.core.effects import ReplyRow
from daemon.core.record import WITH_PAYLOAD, Entry
from daemon.datagrams import DatagramSocket
from daemon.metrics import DaemonCounters
from daemon.peer_codec import pack_header
from daemon.storage.disk import Disk
from daemon.storage.index import DamagedRow
from store.addresses import Address
from store.errors import Status
from store.ids import GroupId
from store.limits import BURST_MAX, COLD_READS_MAX, OBJECT_MAX
from store.session.service import Service
from store.wire.header import FIRST_MUTATION, Op
from store.wire.listing import pack_listing
from store.wire.message import Request

log = structlog.get_logger()

BUSY_MS: Final = 5  # what a client waits before it asks a group again that cannot serve right now
SUSPENDED_MS: Final = 100
LIST_ROWS_MAX: Final = 1000
_KNOWN_MUTATIONS: Final = frozenset(int(op) for op in Op if op >= FIRST_MUTATION)
_sum_of: Final = xxhash.xxh3_64_intdigest


class Clients:
    """Connects the session service to the core and the disk."""

    def __init__(
        self,
        service: Service,
        core: DeviceCore,
        disk: Disk,
        socket: DatagramSocket,
        clock: Callable[[], float],
        wall: Callable[[], float],
        counters: DaemonCounters,
        run: Callable[[], None],
    ) -> None:
        """`run` executes what the core wants and then calls `transmit`."""
        self._service, self._core, self._disk, self._socket = service, core, disk, socket
        self._clock, self._wall, self._counters, self._run = clock, wall, counters, run
        self._cold = ThreadPoolExecutor(2, thread_name_prefix="cold-read")
        self._cold_reads = 0

    def start(self) -> None:
        self._socket.start(self.received, self.batch_done)

    def close(self) -> None:
        self._socket.close()
        self._cold.shutdown(wait=False, cancel_futures=True)

    # Receiving
    def received(self, view: memoryview, address: Address) -> None:
        self._service.receive(self._clock(), self._wall(), view, address)

    def batch_done(self) -> None:
        """All datagrams of one wake-up have been opened: handle their requests as one batch."""
        service = self._service
        requests, service.requests = service.requests, []
        now = self._clock()
        for request in requests:
            if request.op >= FIRST_MUTATION:
                self._order(now, request)
            elif request.op == Op.READ:
                self._read(now, request)
            else:
                self._inspect(now, request)
        self._run()
        service.release()

    # Mutations
    def _order(self, now: float, request: Request) -> None:
        payload = request.payload
        refused = self._refusal(request)
        if refused is not Status.OK:
            self._refuse(request, refused)
            return
        entry = Entry()
        entry.group, entry.op, entry.flags = request.group, request.op, request.flags
        entry.serial, entry.sequence, entry.floor = request.serial, request.sequence, request.floor
        entry.scope, entry.generation = request.scope, request.generation
        entry.name, entry.offset = request.name, request.offset
        entry.n, entry.where = 0, -1
        if request.op in WITH_PAYLOAD:
            entry.payload, entry.size, entry.payload_sum = payload, len(payload), _sum_of(payload)
        else:
            entry.payload, entry.size, entry.payload_sum = None, request.size, 0
        entry.body, entry.reply = request.body, request
        verdict = self._core.admit(now, entry)
        if verdict is not None:
            self._refuse(request, verdict)
        elif entry.n:
            pack_header(entry, request.body, 0)
            self._counters.writes += 1

    def _refusal(self, request: Request) -> Status:
        """What is wrong with a mutation whatever the state of its group; OK: nothing."""
        if request.op not in _KNOWN_MUTATIONS:
            return Status.UNSUPPORTED
        if request.op in WITH_PAYLOAD:
            size = len(request.payload)
        elif request.payload:
            return Status.INVALID
        else:
            size = request.size
        if request.offset + size > OBJECT_MAX:
            return Status.TOO_LARGE
        return self._disk.admit(request.op, size)

    def _refuse(self, request: Request, status: Status) -> None:
        if status is Status.REDIRECT or status is Status.UNKNOWN_GROUP:
            self._redirect(request, status)
        elif status is Status.BUSY:
            self._service.reply(request, status, object_size=BUSY_MS)
        else:
            self._service.reply(request, status)

    def _redirect(self, request: Request, status: Status) -> None:
        """Name the primary as far as it is known here."""
        config = self._core.config(GroupId(request.group))
        if config is None:
            self._service.reply(request, Status.UNKNOWN_GROUP)
        else:
            self._service.reply(request, status, order=config.order_token, data=config.primary.device)

    def answer(self, rows: list[ReplyRow]) -> None:
        """Committed, or stored from an earlier copy of the same request."""
        reply, now, waited = self._service.reply, self._clock(), 0.0
        for request, status, size, verifier, order, version in rows:
            waited += now - request.arrived
            reply(request, status, order=order, verifier=verifier, version=version, object_size=size)
        self._counters.commits += len(rows)
        self._counters.commit_seconds += waited

    # Reads
    def _read(self, now: float, request: Request) -> None:
        """Answer from committed state, checked against leases in the same handling (R8)."""
        core, service, group = self._core, self._service, GroupId(request.group)
        status = core.may_read(now, group, request.scope, request.generation)
        if status is not Status.OK:
            self._refuse_read(request, status)
            return
        self._counters.reads += 1
        found, version, size = self._disk.stat(group, request.name)
        if found is not Status.OK:
            self._reply_status(request, found)
            return
        if request.sequence and request.sequence != version:
            self._reply_status(request, Status.CONFLICT)
            return
        slots = service.begin_data(request)
        if slots is None:
            return
        for offset, views in slots:
            outcome = self._disk.read(group, request.name, offset, views)
            if outcome is None:
                service.cancel_data()
                self._read_cold(request)
                return
            if outcome[0] is not Status.OK:
                service.cancel_data()
                self._reply_status(request, outcome[0])
                return
        order, verifier = self._marks(group)
        service.end_data(order=order, verifier=verifier, version=version, object_size=size)
        if service.ready >= BURST_MAX:
            self.transmit()

    def _refuse_read(self, request: Request, status: Status) -> None:
        if status is Status.BUSY:
            self._service.reply(request, status, object_size=SUSPENDED_MS)
        else:
            self._refuse(request, status)

    def _marks(self, group: GroupId) -> tuple[int, int]:
        config = self._core.config(group)
        return (0, 0) if config is None else (config.order_token, config.continuity)

    def _reply_status(self, request: Request, status: Status) -> None:
        order, verifier = self._marks(GroupId(request.group))
        self._service.reply(request, status, order=order, verifier=verifier)

    def _read_cold(self, request: Request) -> None:
        """A thread brings the blocks into memory; then the request is handled anew, leases and all."""
        if self._cold_reads >= COLD_READS_MAX:
            self._service.reply(request, Status.BUSY, object_size=BUSY_MS)
            return
        self._cold_reads += 1
        self._service.defer(self._clock(), request)
        group = GroupId(request.group)
        reads = [
            self._disk.cold_read(group, request.name, offset, [memoryview(bytearray(length))])
            for offset, length in request.ranges
        ]

        def warm() -> None:
            for read in reads:
                read.run()

        future = asyncio.get_running_loop().run_in_executor(self._cold, warm)
        future.add_done_callback(lambda _: self._warmed(request, future))

    def _warmed(self, request: Request, future: "asyncio.Future[None]") -> None:
        self._cold_reads -= 1
        if future.cancelled():
            return
        future.result()
        now = self._clock()
        if now > request.deadline:
            self._service.counters.expired_deadlines += 1
        else:
            self._read(now, request)
        self._run()

    # Everything else that changes nothing
    def _inspect(self, now: float, request: Request) -> None:
        group = GroupId(request.group)
        status = self._core.may_read(now, group, request.scope, request.generation)
        if status is not Status.OK:
            self._refuse_read(request, status)
        elif request.op == Op.STAT:
            self._stat(request)
        elif request.op == Op.LIST:
            self._list(request)
        else:
            self._reply_status(request, Status.UNSUPPORTED)

    def _stat(self, request: Request) -> None:
        group = GroupId(request.group)
        status, version, size = self._disk.stat(group, request.name)
        order, verifier = self._marks(group)
        self._service.reply(request, status, order=order, verifier=verifier, version=version, object_size=size)

    def _list(self, request: Request) -> None:
        group = GroupId(request.group)
        limit = min(max(1, request.size), LIST_ROWS_MAX)
        try:
            rows = self._disk.list(group, request.name, bytes(request.payload), limit + 1)
        except DamagedRow:
            self._reply_status(request, Status.DAMAGED)
            return
        data, fitted = pack_listing(rows[:limit], self._service.room(request))
        order, verifier = self._marks(group)
        more = not fitted or len(rows) > limit
        self._service.reply(request, Status.OK, order=order, verifier=verifier, object_size=int(more), data=data)

    # Sending
    def transmit(self) -> None:
        """Hand sealed buffers to the socket until the service has no more that may leave now."""
        send, now = self._socket.send, self._clock()
        while sent := self._service.transmit(now):
            for view, segment, address in sent:
                send(view, segment, address)
