"""The listening side of the control channel: TLS for those with a certificate, the joining conversation for the rest.

The first byte of a connection decides (joining.py). Handshakes happen here and not inside asyncio's server, because a
refused certificate must be counted, and asyncio tells nobody about it.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from store.addresses import Address, format_address
from store.control.channel import Connection, Handler
from store.control.joining import LENGTH, PREFACE, receive_exactly
from store.errors import ConfigError
from store.limits import CONTROL_CONNECTIONS_MAX, CONTROL_HANDSHAKE_S, CONTROL_HANDSHAKES_MAX

log = structlog.get_logger()

_BACKLOG: Final = 128
_FAREWELL_S: Final = 1.0  # for what is queued to be sent when the listener closes
_TLS_HANDSHAKE: Final = 0x16  # first byte of every TLS connection


class Joining:
    """What a listener needs to let machines without a certificate speak to `handler`."""

    def __init__(self, authority: str, context: ssl.SSLContext, handler: Handler) -> None:
        """`authority`: the CA as PEM; `context`: from `tls.join_server_context`."""
        self.authority, self.context, self.handler = authority, context, handler


class Listener:
    """Accepts on one address until closed. `refused` is told a word for each connection that is turned away."""

    def __init__(
        self,
        context: ssl.SSLContext,
        handler: Handler,
        joining: Joining | None = None,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._context, self._handler, self._joining, self._refused = context, handler, joining, refused
        self._sock: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()

    def listen(self, address: Address) -> Address:
        """Starts; returns the address bound (port 0: any free one). Raises ConfigError, e.g. for a port in use."""
        self._sock = _bind(address)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        bound: Address = self._sock.getsockname()[:2]
        return bound

    async def close(self) -> None:
        """Stops accepting and closes what is open, after sending what is queued; afterwards no handler is called."""
        tasks = [task for task in (self._accepting, *self._greeting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sock is not None:
            self._sock.close()
        open_still = list(self._connections)
        for connection in open_still:
            connection.close()
        if open_still:
            await asyncio.wait([connection.closed for connection in open_still], timeout=_FAREWELL_S)
        for connection in open_still:
            connection.abort()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._sock is not None
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError as error:  # out of descriptors, or the peer is gone again
                log.warning("cannot accept a connection", reason=error.strerror)
                await asyncio.sleep(0.1)
                continue
            sock.setblocking(False)
            if len(self._greeting) >= CONTROL_HANDSHAKES_MAX or len(self._connections) >= CONTROL_CONNECTIONS_MAX:
                self._refuse(sock, "too_many")
                continue
            task = loop.create_task(self._greet(sock))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, sock: socket.socket) -> None:
        peer = _peer(sock)
        try:
            async with asyncio.timeout(CONTROL_HANDSHAKE_S):
                connection = await self._handshake(sock)
        except TimeoutError:
            self._refuse(sock, "timeout")
        except ssl.SSLError as error:
            log.warning("connection refused", peer=peer, reason=error.reason or str(error))
            self._refuse(sock, "certificate")
        except OSError:
            self._refuse(sock, "broken")
        except asyncio.CancelledError:
            sock.close()
            raise
        else:
            if connection is None:
                self._refuse(sock, "protocol")
                return
            self._connections.add(connection)
            connection.closed.add_done_callback(lambda _: self._connections.discard(connection))

    async def _handshake(self, sock: socket.socket) -> Connection | None:
        """None: neither TLS nor a joiner (or joining is not offered)."""
        await _readable(sock)
        first = sock.recv(1, socket.MSG_PEEK)
        context, handler = self._context, self._handler
        if first[:1] != bytes([_TLS_HANDSHAKE]):
            joining = self._joining
            if joining is None or first != PREFACE[:1] or await receive_exactly(sock, len(PREFACE)) != PREFACE:
                return None
            authority = joining.authority.encode()
            await asyncio.get_running_loop().sock_sendall(sock, LENGTH.pack(len(authority)) + authority)
            context, handler = joining.context, joining.handler
        connection = Connection(handler)  # not taken from what is returned: uvloop returns its own protocol object
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection, sock, ssl=context, ssl_handshake_timeout=CONTROL_HANDSHAKE_S
        )
        return connection

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        self._refused(reason)
        sock.close()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _bind(address: Address) -> socket.socket:
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {format_address(address)}: {error.strerror}") from error
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {format_address(address)}: {error.strerror}; choose another port or stop what uses it"
        ) from error
    return sock


def _peer(sock: socket.socket) -> str:
    try:
        return format_address(sock.getpeername()[:2])
    except OSError:
        return "gone"
