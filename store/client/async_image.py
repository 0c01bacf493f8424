"""An open image of the asynchronous client. Offsets and lengths are bytes, of any alignment.

The same core as the blocking image (image.py); here one event loop takes the place of the lock.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from store.client.access import MasterAccess
from store.client.connection import clock
from store.client.image import Change, FlushJob, ImageCore, ResendJob
from store.client.image_lease import Held, close_held
from store.client.operation import Operation
from store.client.outcome import failure
from store.errors import Status, StoreError
from store.limits import CLIENT_BATCH
from store.wire.header import Flag

if TYPE_CHECKING:
    from store.client.client import Client

_UNSTABLE: Final = Flag(0)


class Image:
    """Made by `Client.open_image`; end it with `close`, which flushes. Methods raise StoreError."""

    def __init__(self, client: "Client", held: Held) -> None:
        self.held = held
        self._client, self._layout = client, held.layout
        self._core = ImageCore()
        self._moved = asyncio.Event()  # replaced each time something has moved
        self._own_flush: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        return self._layout.size

    async def read(self, offset: int, length: int) -> bytes:
        """INVALID outside of the image."""
        self._check(offset, length)
        buffer = bytearray(length)
        into, patches = memoryview(buffer), self._core.kept.patches(offset, length) if length else []
        reads = [
            self._layout.read(
                offset + piece.position, into[piece.position : piece.position + piece.length], self._client.until()
            )
            for piece in self._layout.pieces(offset, length)
        ]
        await self._client.perform_all(reads)
        for operation in reads:
            if operation.status not in (Status.OK, Status.NOT_FOUND):
                raise failure(operation, f"read {self.held.name}")
        for patch in patches:
            into[patch.position : patch.position + len(patch.data)] = patch.data
        return bytes(buffer)

    async def write(self, offset: int, data: bytes, *, durable: bool = False) -> None:
        """Unstable unless `durable`: then it is on disk everywhere when this returns."""
        self._check(offset, len(data))
        flag = Flag.DURABLE if durable else _UNSTABLE
        for piece in self._layout.pieces(offset, len(data)):
            part = data[piece.position : piece.position + piece.length]
            start, until = offset + piece.position, self._client.until()
            change = Change(self._layout.group(piece.number), start, piece.length, part, durable)
            await self._change(change, self._layout.write(start, part, flag, until))
        if self._core.should_flush and (self._own_flush is None or self._own_flush.done()):
            self._own_flush = asyncio.get_running_loop().create_task(self._flush_kept())

    async def clear(self, offset: int, length: int) -> None:
        """Zeros that take no room, durable when this returns."""
        self._check(offset, length)
        for piece in self._layout.clearings(offset, length):
            start, until = offset + piece.position, self._client.until()
            change = Change(self._layout.group(piece.number), start, piece.length, None, True)
            await self._change(change, self._layout.clear(start, piece.length, until))

    async def flush(self) -> None:
        """Returns when everything acknowledged before is durable; raises, and then nothing is promised."""
        flush, until = self._core.begin_flush(), self._client.until()
        while not self._core.flush_done(flush):
            jobs = self._core.jobs(flush, CLIENT_BATCH)
            if jobs:
                await self._run(jobs, until)
            else:
                await self._wait_once(until)

    async def close(self) -> None:
        """Flushes and gives the lock back, also when the flush fails."""
        try:
            if self.held.writable:
                await self.flush()
        finally:
            if self._own_flush is not None:
                self._own_flush.cancel()
                await asyncio.gather(self._own_flush, return_exceptions=True)
            if isinstance(self._client.access, MasterAccess):
                await close_held(self._client.access, self.held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def fence(self) -> None:
        """Rule R36, before anything else: no request of an older lock takes effect any more."""
        fences = [self._layout.fence(group, self._client.until()) for group in self._layout.groups()]
        await self._client.perform_all(fences)
        for operation in fences:
            if operation.status != Status.OK:
                raise failure(operation, f"open image {self.held.name}")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise StoreError(Status.INVALID, f"image {self.held.name} ends at byte {self.size}")

    async def _change(self, change: Change, operation: Operation) -> None:
        if not change.durable:
            await self._until(lambda: self._core.room(change.length), operation.until)
        if not self._core.admit(change):
            try:
                await self._until(lambda: change.admitted, operation.until)
            except BaseException:
                self._core.abandon(change)
                self._has_moved()
                raise
        try:
            await self._client.perform(operation)
        finally:
            if operation.status == Status.OK or (change.data is None and operation.status == Status.NOT_FOUND):
                self._core.acknowledged(change, operation.verifier)
            else:
                self._core.failed(change)
            self._has_moved()
        if operation.status != Status.OK and not (change.data is None and operation.status == Status.NOT_FOUND):
            raise failure(operation, f"write {self.held.name}")

    async def _run(self, jobs: list[FlushJob | ResendJob], until: float) -> None:
        work = [(job, self._operations(job, until)) for job in jobs]
        operations = [operation for _, parts in work for operation in parts]
        try:
            await self._client.perform_all(operations)
        finally:
            for job, parts in work:
                self._report(job, parts)
            self._has_moved()
        for operation in operations:
            if operation.status != Status.OK:
                raise failure(operation, f"flush {self.held.name}")

    def _operations(self, job: FlushJob | ResendJob, until: float) -> list[Operation]:
        if isinstance(job, FlushJob):
            return [self._layout.flush(job.group, until)]
        return [self._layout.write(offset, data, _UNSTABLE, until) for offset, data in job.runs]

    def _report(self, job: FlushJob | ResendJob, operations: list[Operation]) -> None:
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

    async def _flush_kept(self) -> None:
        """So much is kept that it is made durable unasked. A failure leaves it kept, for the next flush to report."""
        try:
            await self.flush()
        except StoreError:
            return

    def _has_moved(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _wait_once(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - clock())):
                await self._moved.wait()
        except TimeoutError as error:
            raise StoreError(Status.TIMEOUT, f"image {self.held.name}: no answer in time") from error

    async def _until(self, ready: Callable[[], bool], until: float) -> None:
        while not ready():
            await self._wait_once(until)
