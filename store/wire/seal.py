"""One datagram, one AEAD: sealing in place, opening into a given place, cutting received buffers. See PROTOCOL.md 3."""

from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.wire.header import HEADER, MAGIC, NONCE, TAG, TICKET_LENGTH, TICKETED

HEAD: Final = HEADER.size
SMALLEST: Final = HEAD + TAG  # no datagram is shorter
CLOCK_MASK: Final = 0xFFFF_FFFF

Datagram = tuple[int, int, int, int, int, int, int]  # start, kind, end, clock, session, packet number, life

__all__ = ["CLOCK_MASK", "HEAD", "SMALLEST", "Datagram", "InvalidTag", "cipher", "clock_us", "datagrams", "seal",
           "ticket_end"]


def cipher(key: bytes) -> AESGCM:
    """AES-128-GCM under a session key of 16 bytes."""
    return AESGCM(key)


def clock_us(now: float) -> int:
    """A header's clock: microseconds, modulo 2**32. Only differences mean anything."""
    return int(now * 1e6) & CLOCK_MASK


def datagrams(view: memoryview) -> Iterator[Datagram]:
    """Cut what one receive call gave (one datagram, or several that the kernel coalesced) by their own lengths.

    Ends at the first that is not of this protocol: nothing behind it can be found.
    """
    unpack, at, size = HEADER.unpack_from, 0, len(view)
    while at + SMALLEST <= size:
        magic, kind, length, clock, session, packet, life = unpack(view, at)
        end = at + length
        if magic != MAGIC or length < SMALLEST or end > size:
            return
        yield at, kind, end, clock, session, packet, life
        at = end


def ticket_end(view: memoryview, start: int, kind: int, end: int) -> int:
    """Where the ciphertext of a datagram begins (behind its ticket if it has one), or -1 if that is outside of it."""
    if not kind & TICKETED:
        return start + HEAD
    if start + SMALLEST + TICKET_LENGTH.size > end:
        return -1
    at = start + HEAD + TICKET_LENGTH.size + int(TICKET_LENGTH.unpack_from(view, start + HEAD)[0])
    return at if at + TAG <= end else -1


def seal(
    key: AESGCM, view: memoryview, start: int, body: int, end: int, kind: int, clock: int, session: int, packet: int,
    life: int,
) -> None:
    """Seal a datagram in place: plaintext stands at [body, end - TAG), a ticket, if any, before `body`.

    (life, packet) must never have been used with this key.
    """
    HEADER.pack_into(view, start, MAGIC, kind, end - start, clock, session, packet, life)
    key.encrypt_into(NONCE.pack(life, packet), view[body : end - TAG], view[start:body], view[body:end])
