"""Tickets: what the master issues to a client and a daemon verifies alone.

A ticket is not signed. It names a client, what it may do and until when; the proof is that its holder knows the key
derived from exactly these bytes and a device's secret (keys.py), which only the master and that device can compute.
"""

from enum import IntFlag
from typing import Final

import msgspec

from store.limits import CAPS_MAX, TICKET_MAX
from store.wire.header import Op

TICKET_VERSION: Final = 1
ANY_POOL: Final = 0
SERIAL_COUNTER_BITS: Final = 48


class Right(IntFlag):
    READ = 1
    WRITE = 2
    LIST = 4
    ADMIN = 8  # control plane only: pools, clients, joining, keys

    @classmethod
    def data(cls) -> "Right":
        """Everything a daemon can be asked for."""
        return cls.READ | cls.WRITE | cls.LIST


class Cap(msgspec.Struct, frozen=True, array_like=True):
    """A capability: in `pool` (0: any), on names that begin with `prefix`, these rights."""

    pool: int
    rights: int
    prefix: bytes = b""


_RIGHT_OF_OP: Final[dict[int, int]] = {
    op: int(Right.LIST if op == Op.LIST else Right.READ if op < Op.WRITE else Right.WRITE) for op in Op
}
# These name no object. Whoever may write something in the pool may ask for them: a flush changes nothing, and a fence
# binds only those who name the same image id.
_NAMELESS: Final = frozenset({int(Op.FLUSH), int(Op.FENCE)})


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """Field order is the wire format: version first, so that other versions can be told apart."""

    version: int
    cluster: bytes  # 16 bytes
    client: str
    serial: int  # recovery generation << 48 | counter; rises with issue; the client's session in duplicate tables
    key_epoch: int
    not_after: int  # unix seconds, exclusive
    caps: tuple[Cap, ...]

    def allows(self, pool: int, op: int, name: bytes) -> bool:
        """Whether these capabilities cover the operation; unknown operations are not. Expiry is judged apart."""
        right = _RIGHT_OF_OP.get(op)
        if right is None:
            return False
        nameless = op in _NAMELESS
        for cap in self.caps:
            if cap.rights & right and cap.pool in (pool, ANY_POOL) and (nameless or name.startswith(cap.prefix)):
                return True
        return False


class TicketInvalid(ValueError):
    """The bytes are no ticket of a version known here."""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Ticket)


def seal_ticket(ticket: Ticket) -> bytes:
    """The ticket's bytes. Raises TicketInvalid if it would not fit a datagram: fewer or shorter prefixes then."""
    data = _encoder.encode(ticket)
    if len(data) > TICKET_MAX or len(ticket.caps) > CAPS_MAX:
        raise TicketInvalid(f"a ticket of {len(data)} bytes is larger than {TICKET_MAX}: use fewer or shorter prefixes")
    return data


def open_ticket(data: bytes | memoryview) -> Ticket:
    """Decode only; whoever calls it must also see the holder prove the key. Raises TicketInvalid."""
    if len(data) > TICKET_MAX:
        raise TicketInvalid("ticket too long")
    try:
        ticket = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise TicketInvalid("not a ticket") from error
    if ticket.version != TICKET_VERSION or len(ticket.cluster) != 16 or len(ticket.caps) > CAPS_MAX:
        raise TicketInvalid("ticket of another version")
    return ticket
