"""The asynchronous client.

    async with await Client.connect(config) as client:
        pool = client.pool("main")
        await pool.write("greeting", b"hello")
        assert await pool.read("greeting") == b"hello"

One UDP socket, one Exchange; asyncio-dgram receives, whole buffers are sent at once with segmentation. On uvloop this
is a few times faster than on asyncio's own loop; it works on either.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import asyncio_dgram
import msgspec

from store.addresses import Address
from store.client.access import Access, DirectAccess, MasterAccess
from store.client.async_image import Image
from store.client.config import ClientConfig
from store.client.connection import clock
from store.client.exchange import Exchange
from store.client.image_lease import close_held, default_holder, open_held
from store.client.names import DirectNamespace, MasterNamespace, Namespace
from store.client.operation import Operation
from store.client.pool import Pool
from store.client.routing import Router
from store.client.sessions import SessionOpener, resolved
from store.client.sockets import Sender, open_socket
from store.control.messages import Mode
from store.errors import Status, StoreError
from store.limits import CLIENT_BATCH, CLIENT_GIVES_UP_S, CLIENT_WAITING_MAX, CONTROL_CALL_S
from store.udp import family_of

A = TypeVar("A", bound=msgspec.Struct)


class Client:
    """A connection to a cluster. Make it with `connect` or `connect_direct`, end it with `close`."""

    def __init__(self, access: Access, namespace: Namespace, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.access = access
        self.namespace = namespace
        self._loop = asyncio.get_running_loop()
        standing = access.standing
        self._router = Router(standing.storage_map, standing.credentials.serial)
        self._exchange = Exchange(self._router, SessionOpener(standing), contextlib.nullcontext())
        self._slots = asyncio.Semaphore(CLIENT_WAITING_MAX)
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._sender: Sender | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._stream: asyncio_dgram.aio.DatagramStream | None = None
        standing.changed = self._standing_changed

    @classmethod
    async def connect(cls, config: ClientConfig, timeout_s: float = CLIENT_GIVES_UP_S, program: str = "client") -> Self:
        """Connects by way of the master. Raises StoreError (UNAVAILABLE, DENIED) and ConfigError."""
        access = MasterAccess(config, program)
        try:
            await access.open()
            return await cls(access, MasterNamespace(access.standing), timeout_s)._opened()
        except BaseException:
            await access.close()
            raise

    @classmethod
    async def connect_direct(cls, address: Address, timeout_s: float = CLIENT_GIVES_UP_S) -> Self:
        """Connects to a daemon without a master, on this machine. Raises ConfigError."""
        access = DirectAccess(address)
        return await cls(access, DirectNamespace(access.standing), timeout_s)._opened()

    async def close(self) -> None:
        if self._receiver is not None:
            self._receiver.cancel()
            await asyncio.gather(self._receiver, return_exceptions=True)
        if self._stream is not None:  # not left to the task, which may have been cancelled before it began
            self._stream.close()
        if self._timer is not None:
            self._timer.cancel()
        await self.access.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- what programs use -------------------------------------------------------------------------------------------

    def pool(self, name: str) -> Pool:
        """Raises StoreError NOT_FOUND if the map has no such pool."""
        return Pool(self, self.namespace.pool(name))

    async def open_image(self, pool: str, name: str, mode: Mode = Mode.WRITE, holder: str = "") -> Image:
        """Takes the lock (Mode.READ: none), and fences whoever had it before. Raises StoreError: NOT_FOUND, BUSY."""
        if not isinstance(self.access, MasterAccess):
            raise StoreError(Status.UNSUPPORTED, "images are opened by way of a master here: this needs a cluster")
        names = self.namespace.pool(pool)
        image = Image(self, await open_held(self.access, names, name, mode, holder or default_holder("client")))
        if image.held.writable:
            try:
                await image.fence()
            except BaseException:
                await close_held(self.access, image.held)
                raise
        return image

    async def call(self, message: msgspec.Struct, answer: type[A], deadline_s: float = CONTROL_CALL_S) -> A:
        """A call to the master. Raises StoreError; UNSUPPORTED without a master."""
        if not isinstance(self.access, MasterAccess):
            raise StoreError(Status.UNSUPPORTED, "there is no master here: this needs a cluster")
        return await self.access.call(message, answer, deadline_s)

    # --- operations --------------------------------------------------------------------------------------------------

    def until(self) -> float:
        """When an operation that begins now is given up."""
        return clock() + self.timeout_s

    async def perform(self, operation: Operation) -> None:
        """Ends when the operation has its status, whatever that is; never later than its `until`, but for moments."""
        async with self._slots:
            future = self._loop.create_future()
            operation.context = future
            self._exchange.submit(clock(), operation)
            self._turn_soon()
            try:
                await future  # the exchange ends every operation by its `until`
            except BaseException:
                self._exchange.cancel(operation)
                raise

    async def perform_all(self, operations: Sequence[Operation]) -> None:
        """All of them, so many at a time that none of them waits in a queue of the cluster."""
        pending = iter(operations)

        async def worker() -> None:
            for operation in pending:
                await self.perform(operation)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CLIENT_BATCH, len(operations))):
                group.create_task(worker())

    # --- the loop's side ---------------------------------------------------------------------------------------------

    async def _opened(self) -> Self:
        devices = self.access.standing.storage_map.devices
        sock = open_socket(family_of(resolved(devices[0].address)) if devices else socket.AF_INET)
        sock.setblocking(False)
        self._sender = Sender(sock)
        self._stream = stream = await asyncio_dgram.from_socket(sock)
        self._receiver = self._loop.create_task(self._receive(stream))
        return self

    async def _receive(self, stream: asyncio_dgram.aio.DatagramStream) -> None:
        """What has queued up is taken without giving way: then one turn answers all of it."""
        while True:
            data, _ = await stream.recv()
            self._exchange.receive(clock(), memoryview(data))
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Hands out what has finished, sends what there is to send, sets the timer."""
        self._turn_due = False
        exchange, now = self._exchange, clock()
        for operation in exchange.finished(now):
            future = operation.context
            assert isinstance(future, asyncio.Future)
            if not future.done():
                future.set_result(None)
        sender = self._sender
        if sender is not None:
            for view, segment, address in exchange.transmit(now):
                sender.send(view, segment, address)
        if self._router.wants:
            wants, self._router.wants = self._router.wants, set()
            self.access.want(wants)
        at = exchange.deadline()
        if at is not None and at < self._timer_at:  # a timer that comes too early only looks again
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, at - now), self._tick)
            self._timer_at = at

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._exchange.tick(clock())
        self._turn()

    def _standing_changed(self) -> None:
        standing = self.access.standing
        self._router.adopt(standing.storage_map)
        self._router.reopen(standing.credentials.serial)
        self._exchange.renew()
