"""How a machine without a certificate gets one (the joiner's side).

On the same port as everything else. A TLS connection begins with byte 0x16; a joiner instead sends PREFACE in the
clear, gets the CA certificate (u32 length, PEM), checks it against the fingerprint in its ticket, and goes on with TLS
believing that CA alone. So it says its secret only to the right master, and every other connection to the port can be
made to show a certificate.
"""

import asyncio
import socket
import ssl
import struct
import time
from typing import Final

from store.addresses import Address, format_address
from store.control.channel import Connection, Quiet
from store.control.messages import Join, Joined
from store.crypto.identity import MASTER
from store.crypto.join_ticket import JoinTicket, read_join_ticket
from store.crypto.tls import Credentials, fingerprint, join_client_context
from store.errors import ConfigError, Status, StoreError
from store.limits import CONTROL_HANDSHAKE_S

PREFACE: Final = b"HYPHAE JOIN 1\n"
LENGTH: Final = struct.Struct("<I")
AUTHORITY_MAX: Final = 64 * 1024


async def join(text: str) -> tuple[Joined, Credentials]:
    """Uses up a join ticket. Raises ConfigError for a bad or expired one, StoreError if no master takes it."""
    from store.crypto import pki  # noqa: PLC0415 - X.509 is needed only here and takes 16 MiB

    ticket = read_join_ticket(text)
    if ticket.not_after <= time.time():
        raise ConfigError("the join ticket has expired: make another with `store join --new`")
    key = pki.create_key()
    connection, authority = await _connect_to_any(ticket)
    try:
        joined = await connection.call(Join(ticket.secret, pki.create_request(key)), Joined)
    finally:
        connection.close()
    return joined, Credentials(joined.certificate, key, authority)


async def _connect_to_any(ticket: JoinTicket) -> tuple[Connection, str]:
    for address in ticket.masters[:-1]:
        try:
            return await _connect(address, ticket)
        except StoreError:
            continue
    return await _connect(ticket.masters[-1], ticket)


async def _connect(address: Address, ticket: JoinTicket) -> tuple[Connection, str]:
    shown = format_address(address)
    try:
        async with asyncio.timeout(CONTROL_HANDSHAKE_S):
            sock = await _open(address)
            try:
                connection, authority = await _introduce(sock, ticket, shown)
            except BaseException:
                sock.close()
                raise
    except ssl.SSLError as error:
        raise StoreError(Status.DENIED, f"{shown} does not have the CA's certificate ({error.reason})") from error
    except TimeoutError as error:
        raise StoreError(Status.UNAVAILABLE, f"cannot join at {shown}: no answer") from error
    except OSError as error:
        raise StoreError(Status.UNAVAILABLE, f"cannot join at {shown}: {error.strerror or error}") from error
    if connection.role != MASTER:
        connection.abort()
        raise StoreError(Status.DENIED, f"{shown} is not a master")
    return connection, authority


async def _introduce(sock: socket.socket, ticket: JoinTicket, shown: str) -> tuple[Connection, str]:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, PREFACE)
    authority = await _authority(sock, ticket.fingerprint, shown)
    _, connection = await loop.create_connection(
        lambda: Connection(Quiet()), sock=sock, ssl=join_client_context(authority), server_hostname=""
    )
    return connection, authority


async def _open(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _authority(sock: socket.socket, expected: bytes, shown: str) -> str:
    (length,) = LENGTH.unpack(await receive_exactly(sock, LENGTH.size))
    if length > AUTHORITY_MAX:
        raise StoreError(Status.INVALID, f"{shown} does not speak this protocol")
    authority = (await receive_exactly(sock, length)).decode("ascii", "replace")
    if fingerprint(authority) != expected:
        raise StoreError(Status.DENIED, f"{shown} belongs to another cluster than the join ticket")
    return authority


async def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Raises ConnectionResetError if the stream ends before."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed")
        data += part
    return bytes(data)
