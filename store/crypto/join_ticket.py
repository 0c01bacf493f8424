"""One-time join tickets: one printable word that lets a machine without a certificate become part of the cluster.

    join1.<base64url, no padding, of: checksum | msgpack [addresses, CA fingerprint, secret, not after]>

The checksum (4 bytes of SHA-256) finds copying mistakes before anything is sent. The fingerprint lets the joiner know
the right master before it says the secret; the master keeps only the secret's hash, and forgets it at first use.
"""

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from store.addresses import Address
from store.errors import ConfigError

PREFIX: Final = "join1."
SECRET_BYTES: Final = 16
_CHECKSUM_BYTES: Final = 4


class JoinTicket(msgspec.Struct, frozen=True, array_like=True):
    masters: tuple[Address, ...]
    fingerprint: bytes  # SHA-256 of the CA certificate's DER form
    secret: bytes
    not_after: int  # unix seconds


def write_join_ticket(ticket: JoinTicket) -> str:
    body = msgspec.msgpack.encode(ticket)
    return PREFIX + base64.urlsafe_b64encode(_checksum(body) + body).rstrip(b"=").decode()


def read_join_ticket(text: str) -> JoinTicket:
    """Raises ConfigError if it was not copied whole."""
    word = "".join(text.split())
    try:
        coded = word.removeprefix(PREFIX)
        data = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
        ticket = msgspec.msgpack.decode(body, type=JoinTicket)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise ConfigError("this is no join ticket: copy the whole word that begins with join1.") from error
    if not word.startswith(PREFIX) or checksum != _checksum(body) or not ticket.masters:
        raise ConfigError("the join ticket is damaged: copy the whole word that begins with join1.")
    return ticket


def secret_hash(secret: bytes) -> bytes:
    """What the master keeps of a ticket. The secret is random, so a plain hash does."""
    return hashlib.sha256(b"hyphae join 1" + secret).digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
