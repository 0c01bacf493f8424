"""A block device for threads: an open image of a BlockingClient. Offsets and lengths are bytes, of any alignment.

Every method may be called from any thread. Failures are OSError with the errno that a block device would give: EIO
after `timeout_s` without an answer, EROFS from the moment on that another client has taken the image over.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import structlog

from store.client.blocking import BlockingClient
from store.client.connection import clock
from store.client.image import Change, FlushJob, ImageCore, ResendJob
from store.client.image_lease import Held
from store.client.kept import BLOCK_SHIFT
from store.client.operation import Operation
from store.client.outcome import block_error, failure
from store.errors import Status
from store.limits import BLOCK, CLIENT_BATCH, EXTENT_OBJECTS_MAX, OBJECT_MAX
from store.wire.header import Flag

log = structlog.get_logger()

_ZEROS: Final = bytes(BLOCK)
_UNSTABLE: Final = Flag(0)
_INSIDE: Final = OBJECT_MAX - 1
_ASK_FIRST: Final = 4  # whole objects to clear at once, from which on it is asked which of them there are


class Extent(NamedTuple):
    offset: int
    length: int
    hole: bool  # nothing is stored: it reads as zeros


class BlockingImage:
    """Made by `open_image` (blocking_open.py); end it with `close`, which flushes."""

    def __init__(self, client: BlockingClient, held: Held, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.held = held
        self._client, self._layout = client, held.layout
        self._core = ImageCore()
        self._newest = self._core.kept.newest
        self._lock = threading.Lock()  # of the core
        self._moved = threading.Condition(self._lock)  # a change was admitted, a flush went on, or there is more room
        self._waiting = 0
        self._flushing_by_itself = False
        self._lost = False

    @property
    def size(self) -> int:
        return self._layout.size

    @property
    def writable(self) -> bool:
        return self.held.writable

    @property
    def kept_bytes(self) -> int:
        """Acknowledged unstable data in memory."""
        return self._core.kept.bytes

    # --- reading -----------------------------------------------------------------------------------------------------

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fills `into`. Raises OSError."""
        length = len(into)
        if (offset & _INSIDE) + length <= OBJECT_MAX:
            self._read_piece(offset, into)
            return
        for piece in self._layout.pieces(offset, length):
            self._read_piece(offset + piece.position, into[piece.position : piece.position + piece.length])

    def _read_piece(self, offset: int, into: memoryview) -> None:
        length = len(into)
        newest, patches = self._newest, None
        if newest and (
            length > BLOCK or offset >> BLOCK_SHIFT in newest or offset + length - 1 >> BLOCK_SHIFT in newest
        ):
            with self._lock:
                patches = self._core.kept.patches(offset, length)
        if not patches or sum(len(patch.data) for patch in patches) < length:
            operation = self._layout.read(offset, into, clock() + self.timeout_s)
            self._client.perform(operation)
            status = operation.status
            if status == Status.NOT_FOUND:
                into[:] = _ZEROS if length == BLOCK else bytes(length)
            elif status != Status.OK:
                raise self._error(operation, "read")
            elif operation.length < length:
                into[operation.length :] = bytes(length - operation.length)
        for patch in patches or ():
            into[patch.position : patch.position + len(patch.data)] = patch.data

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: memoryview, durable: bool) -> None:
        """Unstable unless `durable`: then it is on disk everywhere when this returns. Raises OSError."""
        flag = Flag.DURABLE if durable else _UNSTABLE
        layout = self._layout
        if (offset & _INSIDE) + len(data) <= OBJECT_MAX:
            change = Change(layout.group(offset // OBJECT_MAX), offset, len(data), data, durable)
            self._one(change, layout.write(offset, data, flag, clock() + self.timeout_s))
        else:
            for piece in layout.pieces(offset, len(data)):
                part = data[piece.position : piece.position + piece.length]
                self.write(offset + piece.position, part, durable)
        if self._core.should_flush:
            self._flush_by_itself()

    def clear(self, offset: int, length: int) -> None:
        """Zeros that take no room, durable when this returns: a trim as well as writing zeros. Raises OSError."""
        layout = self._layout
        pending: deque[tuple[Change, Operation]] = deque()
        for piece in layout.clearings(offset, length):
            start = offset + piece.position
            change = Change(layout.group(piece.number), start, piece.length, None, True)
            pending.append((change, layout.clear(start, piece.length, 0.0)))
            if len(pending) >= CLIENT_BATCH:
                self._some(pending)
        while pending:
            self._some(pending)

    def _one(self, change: Change, operation: Operation) -> None:
        with self._lock:
            if not (change.durable or self._core.room(change.length)):
                self._wait_for_room(change.length, operation.until)
            if not self._core.admit(change):
                self._wait_for_turn(change, operation.until)
        try:
            self._client.perform(operation)
        finally:
            self._ended(change, operation)
        if operation.status != Status.OK:
            raise self._error(operation, "write")

    def _some(self, pending: deque[tuple[Change, Operation]]) -> None:
        """The first, when its turn has come, and those behind it that need not wait.

        Nobody waits while holding a claim, so no two threads can wait for each other.
        """
        until = clock() + self.timeout_s
        batch: list[tuple[Change, Operation]] = []
        with self._lock:
            first = pending.popleft()
            if not self._core.admit(first[0]):
                self._wait_for_turn(first[0], until)
            batch.append(first)
            while pending and len(batch) < CLIENT_BATCH and self._core.try_admit(pending[0][0]):
                batch.append(pending.popleft())
        for _, operation in batch:
            operation.until = until
        try:
            self._skip_holes(batch, until)
            self._client.perform_all([operation for _, operation in batch if operation.status < 0])
        finally:
            for change, operation in batch:
                self._ended(change, operation)
        for _, operation in batch:
            if operation.status not in (Status.OK, Status.NOT_FOUND):  # nothing there: nothing to clear
                raise self._error(operation, "clear")

    def _skip_holes(self, batch: list[tuple[Change, Operation]], until: float) -> None:
        """Deleting what is not there costs a record in the log; asking does not. A new file system clears everything.

        Not after a change that failed: it might still arrive, and only a record behind it would keep it out (R33).
        """
        whole = [operation for change, operation in batch if change.length == OBJECT_MAX]
        if len(whole) < _ASK_FIRST or self._core.failures:
            return
        stats = [self._layout.stat(int(operation.name[len(self._layout.prefix) :]), until) for operation in whole]
        self._client.perform_all(stats)
        for operation, stat in zip(whole, stats, strict=True):
            if stat.status == Status.NOT_FOUND:
                operation.status = Status.NOT_FOUND

    def _ended(self, change: Change, operation: Operation) -> None:
        applied = operation.status == Status.OK or (change.data is None and operation.status == Status.NOT_FOUND)
        if applied and not change.durable:
            change.data = bytes(change.data or b"")  # the caller's buffer is gone afterwards
        with self._lock:
            if applied:
                self._core.acknowledged(change, operation.verifier)
            else:
                self._core.failed(change)
            if self._waiting:
                self._moved.notify_all()

    def _wait_for_turn(self, change: Change, until: float) -> None:
        """With the lock held."""
        if not self._wait(lambda: change.admitted, until):
            self._core.abandon(change)
            self._moved.notify_all()
            raise OSError(errno.EIO, f"write to {self.held.name}: an earlier write to the same block does not end")

    def _wait_for_room(self, length: int, until: float) -> None:
        """With the lock held."""
        if not self._wait(lambda: self._core.room(length), until):
            raise OSError(errno.EIO, f"write to {self.held.name}: what was written before cannot be made durable")

    # --- flush -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Returns when everything acknowledged before is durable. Raises OSError, and then nothing is promised."""
        until = clock() + self.timeout_s
        with self._lock:
            flush = self._core.begin_flush()
        while True:
            with self._lock:
                if self._core.flush_done(flush):
                    return
                jobs = self._core.jobs(flush, CLIENT_BATCH)
                if not jobs and not self._wait_once(until):
                    raise OSError(errno.EIO, f"flush of {self.held.name}: no answer in time")
            if jobs:
                self._run(jobs, until)

    def _run(self, jobs: list[FlushJob | ResendJob], until: float) -> None:
        work = [(job, list(self._operations(job, until))) for job in jobs]
        operations = [operation for _, parts in work for operation in parts]
        try:
            if len(operations) == 1:
                self._client.perform(operations[0])
            else:
                self._client.perform_all(operations)
        finally:
            with self._lock:
                for job, parts in work:
                    self._report(job, parts)
                if self._waiting:
                    self._moved.notify_all()
        for operation in operations:
            if operation.status != Status.OK:
                raise self._error(operation, "flush")

    def _operations(self, job: FlushJob | ResendJob, until: float) -> Iterator[Operation]:
        if isinstance(job, FlushJob):
            yield self._layout.flush(job.group, until)
            return
        log.warning("unstable writes were lost and are sent again", image=self.held.name, runs=len(job.runs))
        for offset, data in job.runs:
            yield self._layout.write(offset, data, _UNSTABLE, until)

    def _report(self, job: FlushJob | ResendJob, operations: list[Operation]) -> None:
        """With the lock held."""
        done = all(operation.status == Status.OK for operation in operations)
        if isinstance(job, FlushJob):
            if done:
                self._core.flushed(job, operations[0].verifier)
            else:
                self._core.flush_failed(job)
        elif done:
            self._core.resent(job, {operation.verifier for operation in operations})
        else:
            self._core.resend_failed(job)

    def _flush_by_itself(self) -> None:
        """So much is kept that a thread begins to make it durable; writers go on until there is no room."""
        with self._lock:
            if self._flushing_by_itself:
                return
            self._flushing_by_itself = True
        threading.Thread(target=self._flush_kept, name="image-flush", daemon=True).start()

    def _flush_kept(self) -> None:
        try:
            self.flush()
        except OSError as error:
            log.warning("unflushed writes stay in memory", image=self.held.name, reason=str(error))
        finally:
            with self._lock:
                self._flushing_by_itself = False

    # --- the rest ----------------------------------------------------------------------------------------------------

    def extents(self, offset: int, length: int) -> list[Extent]:
        """What is stored and what is not, object by object, from `offset` on; perhaps not all of the range."""
        length = min(length, EXTENT_OBJECTS_MAX * OBJECT_MAX - (offset & _INSIDE))
        pieces = list(self._layout.pieces(offset, length))
        until = clock() + self.timeout_s
        stats = [self._layout.stat(piece.number, until) for piece in pieces]
        self._client.perform_all(stats)
        extents: list[Extent] = []
        for piece, stat in zip(pieces, stats, strict=True):
            if stat.status not in (Status.OK, Status.NOT_FOUND):
                raise self._error(stat, "extents")
            stored = min(max(stat.object_size - piece.offset, 0), piece.length) if stat.status == Status.OK else 0
            start = offset + piece.position
            with self._lock:
                if self._newest and self._core.kept.patches(start, piece.length):
                    stored = piece.length
            extents += [
                Extent(low, size, hole)
                for low, size, hole in ((start, stored, False), (start + stored, piece.length - stored, True))
                if size
            ]
        return merged(extents)

    def fence(self) -> None:
        """Rule R36, before anything else: no request of an older lock takes effect any more. Raises StoreError."""
        until = clock() + self.timeout_s
        fences = [self._layout.fence(group, until) for group in self._layout.groups()]
        self._client.perform_all(fences)
        for operation in fences:
            if operation.status != Status.OK:
                raise failure(operation, f"open image {self.held.name}")

    def _error(self, operation: Operation, verb: str) -> OSError:
        if operation.status == Status.FENCED and not self._lost:
            self._lost = True
            log.error("another client has taken the image over: nothing can be written any more", image=self.held.name)
        return block_error(operation, f"{verb} {self.held.name}")

    def _wait_once(self, until: float) -> bool:
        """With the lock held: until something has moved. False: not before `until`."""
        self._waiting += 1
        try:
            return self._moved.wait(max(0.0, until - clock()))
        finally:
            self._waiting -= 1

    def _wait(self, ready: Callable[[], bool], until: float) -> bool:
        """With the lock held: until `ready()`. False: not before `until`."""
        while not ready():
            if not self._wait_once(until) and not ready():
                return False
        return True


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """Neighbours of one kind as one."""
    out: list[Extent] = []
    for extent in extents:
        if out and out[-1].hole == extent.hole:
            last = out.pop()
            out.append(Extent(last.offset, last.length + extent.length, extent.hole))
        else:
            out.append(extent)
    return out
