"""The connection of a daemon or client to its master: made again, with back-off, for as long as it is wanted."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import structlog

from store.addresses import Address, format_address
from store.control.channel import Connection, Handler, dial
from store.crypto.identity import MASTER
from store.errors import Status, StoreError
from store.limits import CONTROL_CALL_S, CONTROL_REDIAL_MAX_S, CONTROL_REDIAL_MIN_S

log = structlog.get_logger()

A = TypeVar("A", bound=msgspec.Struct)

Greeting = Callable[[Connection], Awaitable[None]]


class MasterLink:
    """Keeps one connection to one of `masters`. Start it inside a running loop; end it with `close`.

    `greet` runs on every new connection before anything else may use it (a daemon registers, a client says Hello); if
    it raises StoreError the connection is given up and the next one tried.
    """

    def __init__(self, masters: Sequence[Address], context: ssl.SSLContext, handler: Handler, greet: Greeting) -> None:
        self._masters, self._context, self._handler, self._greet = tuple(masters), context, handler, greet
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last_error: StoreError | None = None  # why there is no connection

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    async def wait_connected(self, deadline_s: float) -> None:
        """Raises StoreError with the last reason if there is no connection in time."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._ready.wait()
        except TimeoutError as error:
            raise self._why_not() from error

    async def call(self, message: msgspec.Struct, answer: type[A], deadline_s: float = CONTROL_CALL_S) -> A:
        """As Connection.call, waiting for a connection first. Not repeated: after TIMEOUT or UNAVAILABLE the outcome
        is unknown."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        if not self._ready.is_set():
            await self.wait_connected(deadline_s)
        connection = self._connection
        if connection is None:
            raise self._why_not()
        return await connection.call(message, answer, max(0.001, end - loop.time()))

    def push(self, message: msgspec.Struct) -> None:
        """Lost silently while there is no connection."""
        if self._connection is not None and self._ready.is_set():
            self._connection.push(message)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._drop()

    async def _keep_connected(self) -> None:
        delay, turn = CONTROL_REDIAL_MIN_S, 0
        while True:
            address = self._masters[turn % len(self._masters)]
            turn += 1
            try:
                connection = self._connection = await dial(address, self._context, MASTER, self._handler)
                await self._greet(connection)
            except StoreError as error:
                if self.last_error is None or str(self.last_error) != str(error):
                    log.warning("no connection to the master", reason=str(error))
                self.last_error = error
            except Exception as error:  # outermost loop: a defect in a greeting must not cut us off for ever
                log.exception("the greeting of a master failed")
                self.last_error = StoreError(Status.UNAVAILABLE, f"internal error: {type(error).__name__}")
            else:
                log.debug("connected to the master", address=format_address(address))
                delay, self.last_error = CONTROL_REDIAL_MIN_S, None
                self._ready.set()
                await connection.closed
            self._drop()
            await asyncio.sleep(delay)
            delay = min(2 * delay, CONTROL_REDIAL_MAX_S)

    def _drop(self) -> None:
        self._ready.clear()
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _why_not(self) -> StoreError:
        if self.last_error is not None:
            return StoreError(self.last_error.status, str(self.last_error))
        shown = ", ".join(map(format_address, self._masters))
        return StoreError(Status.UNAVAILABLE, f"no connection to the master at {shown}")
