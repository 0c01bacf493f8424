"""Key derivation and the ring of key epochs.

    device secret   32 random bytes per device and key epoch; the master keeps it and gives it to that daemon alone
    ticket key      HKDF-SHA256(device secret, no salt, "hyphae ticket 1" | ticket)    32 bytes; the client gets it
    session key     HKDF-SHA256(ticket key, session id, "hyphae session 1")            16 bytes; neither end sends it

So a daemon verifies any client without knowing it, and a client that is given the key of one device and ticket learns
nothing about another's (RFC 5869; info and salt are never shared between the two uses).
"""

import struct
from typing import Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES: Final = 32
TICKET_KEY_BYTES: Final = 32
SESSION_KEY_BYTES: Final = 16
RING_EPOCHS: Final = 3  # previous, current, next

_TICKET_INFO: Final = b"hyphae ticket 1"
_SESSION_INFO: Final = b"hyphae session 1"
_SESSION_ID: Final = struct.Struct("<Q")


def derive_ticket_key(device_secret: bytes, ticket: bytes) -> bytes:
    """The 32-byte key that stands for `ticket` (as its bytes travel) at the device with this secret."""
    return HKDF(SHA256(), TICKET_KEY_BYTES, salt=None, info=_TICKET_INFO + ticket).derive(device_secret)


def derive_session_key(ticket_key: bytes, session: int) -> bytes:
    """The 16-byte AES-128-GCM key of one transport session; `session` is the u64 of the datagram header."""
    return HKDF(SHA256(), SESSION_KEY_BYTES, salt=_SESSION_ID.pack(session), info=_SESSION_INFO).derive(ticket_key)


class Secrets(msgspec.Struct, frozen=True, array_like=True):
    """One device's secrets as the master hands them out: key epoch -> secret, and the epoch tickets are made in."""

    current: int
    by_epoch: dict[int, bytes]


class KeyRing:
    """A daemon's secrets, replaced as a whole when the master sends others; readers keep a reference to the ring."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Secrets | None = None) -> None:
        self._secrets = Secrets(0, {}) if secrets is None else secrets

    @property
    def current(self) -> int:
        """The key epoch of new tickets; 0 before the master gave any."""
        return self._secrets.current

    def secret(self, key_epoch: int) -> bytes | None:
        """None: that epoch has left the ring, or never was in it."""
        return self._secrets.by_epoch.get(key_epoch)

    def install(self, secrets: Secrets) -> None:
        """Ignored if older than what is installed: two messages of the master may be handled out of order."""
        if secrets.current >= self._secrets.current:
            self._secrets = secrets

    def secrets(self) -> Secrets:
        """What is installed, to be kept on the device's disk (readable by its owner only)."""
        return self._secrets
