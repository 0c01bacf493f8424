"""The control channel: calls, answers and pushes as frames over TLS with certificates on both sides.

A frame is a u32 (little-endian) length, then that many bytes of msgpack: [kind, number, message]. A call carries a
number that its answer repeats; numbers of a push are 0. Calls and pushes of one connection are handled one after
the other in the order they came. Everything is bounded: a frame that is too long, a peer that does not read, a call
without an answer all end in a closed connection or a StoreError, never in waiting without end.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import deque
from enum import IntEnum
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import structlog

from store.addresses import Address, format_address
from store.control.messages import Done, Failure, Message
from store.crypto.identity import Role, role_of
from store.errors import Status, StoreError
from store.limits import CONTROL_BACKLOG_MAX, CONTROL_CALL_S, CONTROL_CALLS_MAX, CONTROL_FRAME_MAX, CONTROL_HANDSHAKE_S

log = structlog.get_logger()

_LENGTH: Final = struct.Struct("<I")
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_UNACKED_MS: Final = 15_000  # a connection on which nothing is acknowledged for this long is dead

A = TypeVar("A", bound=msgspec.Struct)


class FrameKind(IntEnum):
    CALL = 0
    ANSWER = 1
    PUSH = 2


class Frame(msgspec.Struct, array_like=True, frozen=True):
    kind: int
    number: int
    body: msgspec.Raw  # decoded apart: a message that is not known must not cost the connection


class Handler(Protocol):
    """What one side does with its connections. Raised StoreErrors become the answer of a call."""

    def opened(self, connection: "Connection") -> None: ...
    async def call(self, connection: "Connection", message: Message) -> Message: ...
    async def push(self, connection: "Connection", message: Message) -> None: ...
    def closed(self, connection: "Connection") -> None: ...


class Quiet:
    """A Handler that offers nothing and ignores pushes; a base for those that need less than all of it."""

    def opened(self, connection: "Connection") -> None: ...

    async def call(self, connection: "Connection", message: Message) -> Message:
        raise StoreError(Status.UNSUPPORTED, f"{type(message).__name__} is not offered here")

    async def push(self, connection: "Connection", message: Message) -> None: ...

    def closed(self, connection: "Connection") -> None: ...


_encoder: Final = msgspec.msgpack.Encoder()
_frames: Final = msgspec.msgpack.Decoder(Frame)
_messages: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


class Connection(asyncio.Protocol):
    """One TLS connection, the same on both sides. Made by `dial` or by a Listener."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._inbox: deque[tuple[Frame, Message]] = deque()
        self._awake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._last_number = 0
        self._error: StoreError | None = None
        self._paused = self._heard = False
        self.closed = asyncio.get_running_loop().create_future()  # done when the connection is gone
        self.role: Role | None = None  # of the other side's certificate
        self.address: Address = ("", 0)  # of the other side
        self.state: Any = None  # for the handler's use

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's TLS transport does not derive from it
        self._transport = transport
        self.role = role_of(transport.get_extra_info("peercert") or {})
        self.address = tuple((transport.get_extra_info("peername") or ("", 0))[:2])
        _keep_alive(transport.get_extra_info("socket"))
        self._worker = asyncio.get_running_loop().create_task(self._serve())
        self._handler.opened(self)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        buffer = self._received
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > CONTROL_FRAME_MAX:
                self._fail(Status.INVALID, "the other side sent a frame beyond the limit")
                return
            end = start + _LENGTH.size + length
            if end > len(buffer):
                break
            if not self._take(bytes(buffer[start + _LENGTH.size : end])):
                return
            start = end
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):
            self._error = StoreError(Status.DENIED, f"the other side refused the certificate ({exc.reason or exc})")
        text = f"connection to {format_address(self.address)} lost"
        if not self._heard:  # asyncio's servers drop a refused certificate without telling why
            text = f"{format_address(self.address)} hung up without a word: is this certificate of its cluster?"
        error = self._error or StoreError(Status.UNAVAILABLE, text)
        self._error = error
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(StoreError(error.status, str(error)))
        self._calls.clear()
        if self._worker is not None:
            self._worker.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._handler.closed(self)

    # --- calling

    async def call(self, message: msgspec.Struct, answer: type[A], deadline_s: float = CONTROL_CALL_S) -> A:
        """The answer to a call. Raises StoreError: the other side's refusal, TIMEOUT (outcome unknown), UNAVAILABLE."""
        if not self.is_open:
            raise self._error or StoreError(Status.UNAVAILABLE, "not connected")
        self._last_number += 1
        number = self._last_number
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._calls[number] = waiting
        try:
            self._send(FrameKind.CALL, number, message)
            async with asyncio.timeout(deadline_s):
                got = await waiting
        except TimeoutError as error:
            text = f"no answer from {format_address(self.address)} within {deadline_s:g} s"
            raise StoreError(Status.TIMEOUT, text) from error
        finally:
            self._calls.pop(number, None)
        if isinstance(got, Failure):
            raise StoreError(_status(got.status), got.message)
        if not isinstance(got, answer):
            raise StoreError(Status.INVALID, f"{type(got).__name__} is no answer to {type(message).__name__}")
        return got

    def push(self, message: msgspec.Struct) -> None:
        """Queue a message that needs no answer; lost silently if the connection is closed or breaks."""
        if self.is_open:
            self._send(FrameKind.PUSH, 0, message)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """What has been queued is still sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- inside

    def _take(self, data: bytes) -> bool:
        try:
            frame = _frames.decode(data)
        except (msgspec.DecodeError, ValueError):
            self._fail(Status.INVALID, "the other side sent something that is no frame")
            return False
        try:
            message = _messages.decode(frame.body)
        except (msgspec.DecodeError, ValueError) as error:
            message = Failure(Status.UNSUPPORTED, f"this version does not know that message ({error})")
        if frame.kind == FrameKind.ANSWER:
            waiting = self._calls.get(frame.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return True
        self._inbox.append((frame, message))
        self._awake.set()
        if len(self._inbox) >= CONTROL_CALLS_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        return True

    async def _serve(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._inbox:
                frame, message = self._inbox.popleft()
                if self._paused and len(self._inbox) < CONTROL_CALLS_MAX // 2 and self._transport is not None:
                    self._paused = False
                    self._transport.resume_reading()
                try:
                    await self._handle(frame, message)
                except Exception:  # outermost loop: a defect in one message must not end the service
                    log.exception("a message could not be handled", message=type(message).__name__)
                    self._answer(frame, Failure(Status.INVALID, "internal error; see the log of the other side"))

    async def _handle(self, frame: Frame, message: Message) -> None:
        if isinstance(message, Failure):
            self._answer(frame, message)
        elif frame.kind == FrameKind.PUSH:
            await self._handler.push(self, message)
        else:
            try:
                self._answer(frame, await self._handler.call(self, message))
            except StoreError as error:
                self._answer(frame, Failure(int(error.status), str(error)))

    def _answer(self, frame: Frame, message: Message) -> None:
        if frame.kind == FrameKind.CALL:
            self._send(FrameKind.ANSWER, frame.number, message)

    def _send(self, kind: FrameKind, number: int, message: msgspec.Struct) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        data = _encoder.encode([int(kind), number, message])
        if len(data) > CONTROL_FRAME_MAX:
            raise StoreError(Status.TOO_LARGE, f"{type(message).__name__} of {len(data)} bytes is beyond the limit")
        if transport.get_write_buffer_size() > CONTROL_BACKLOG_MAX:
            self._fail(Status.UNAVAILABLE, "the other side does not read")
            return
        transport.write(_LENGTH.pack(len(data)) + data)

    def _fail(self, status: Status, message: str) -> None:
        log.warning("control connection dropped", peer=format_address(self.address), reason=message)
        self._error = StoreError(status, message)
        self.abort()


async def dial(
    address: Address, context: ssl.SSLContext, role: Role, handler: Handler, deadline_s: float = CONTROL_HANDSHAKE_S
) -> Connection:
    """Connect to whoever must have `role`. Raises StoreError: UNAVAILABLE, or DENIED if it is somebody else."""
    loop = asyncio.get_running_loop()
    shown = format_address(address)
    try:
        async with asyncio.timeout(deadline_s):
            _, connection = await loop.create_connection(lambda: Connection(handler), *address, ssl=context)
    except ssl.SSLError as error:
        text = f"{shown} does not have a certificate of this cluster's CA ({error.reason or error})"
        raise StoreError(Status.DENIED, text) from error
    except TimeoutError as error:
        raise StoreError(Status.UNAVAILABLE, f"{shown} does not answer") from error
    except OSError as error:
        raise StoreError(Status.UNAVAILABLE, f"cannot connect to {shown}: {error.strerror or error}") from error
    if connection.role != role:
        connection.abort()
        raise StoreError(Status.DENIED, f"{shown} is not the {role.kind}: its certificate says {connection.role}")
    return connection


def _status(number: int) -> Status:
    with contextlib.suppress(ValueError):
        return Status(number)
    return Status.UNSUPPORTED


def _keep_alive(sock: socket.socket | None) -> None:
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKED_MS)


__all__ = ["Connection", "Done", "Handler", "Quiet", "dial"]
