"""Requests as they travel: packing, and parsing with every check that needs no state. See PROTOCOL.md, section 4."""

from struct import Struct
from typing import Any, Final

from store.limits import BURST_MAX, DATAGRAM_MAX, DATAGRAM_MIN, GSO_SEGMENTS_MAX, NAME_MAX, OBJECT_MAX, RANGES_MAX
from store.wire.cut import answer_size, fragments
from store.wire.header import (
    DATA,
    ECHO,
    FIRST_MUTATION,
    HEADER,
    PROBE,
    PROBE_ACK,
    RANGE,
    REPLY,
    REQUEST,
    RETRY,
    TAG,
    Malformed,
    Op,
)

OVERHEAD: Final = HEADER.size + TAG  # bytes of every datagram around its plaintext
LEFT_AT: Final = 12  # where the milliseconds left stand in a REQUEST
LEFT: Final = Struct("<I")
STAMP_AT: Final = 40  # where the address stamp stands in a REQUEST
STAMP: Final = Struct("<Q")
ACK_DELAY_AT: Final = 62  # where a REQUEST says how long its acknowledgement may wait
RECORD_ROOM: Final = 88  # bytes kept free before a name, for the header of a journal record
HEADROOM: Final = RECORD_ROOM - REQUEST.size  # so a message is placed this far into its `body`
BURST_WIRE_MAX: Final = 65_507  # one send with segmentation

LONE_OVERHEAD: Final = OVERHEAD + DATA.size + ECHO.size  # bytes around the data of an answer in one datagram
_READ: Final = int(Op.READ)
_FIRST_MUTATION: Final = int(FIRST_MUTATION)
_NAMELESS: Final = frozenset({int(Op.LIST), int(Op.FLUSH), int(Op.FENCE)})
_NO_RANGES: Final[tuple[tuple[int, int], ...]] = ()


class Request:
    """A whole request as the daemon sees it. `payload` and `body` are views that live until the tick's release."""

    __slots__ = (
        "ack_delay", "address", "arrived", "body", "budget", "deadline", "flags", "floor", "fragment", "generation",
        "group", "name", "number", "offset", "op", "order", "packet", "payload", "ranges", "scope", "sequence",
        "serial", "session", "size", "stamp", "wire",
    )

    session: Any  # the transport session it came in by
    address: Any  # where it came from
    budget: int  # bytes that may be answered; small while the address is not proved
    number: int
    op: int  # `Op`, or a number this version does not know
    flags: int
    group: int
    order: int
    sequence: int  # READ with UNTORN: the version token that all ranges must have, or 0
    floor: int
    scope: int
    generation: int
    offset: int
    size: int
    name: bytes
    payload: memoryview
    body: memoryview  # 88 free bytes, then name and payload
    ranges: tuple[tuple[int, int], ...]  # READ: offset and length
    wire: int  # READ: bytes of all datagrams of its answer
    fragment: int  # READ, STAT, LIST: largest datagram the client wants to receive
    deadline: float  # seconds, on the receiver's clock
    arrived: float
    packet: int  # packet number of its datagram (of the last, if it came in fragments)
    serial: int
    stamp: int
    ack_delay: int  # milliseconds


def pack_request(
    op: int, flags: int, number: int, group: int, name: bytes, *, left: int, order: int, sequence: int, scope: int,
    generation: int, offset: int, size: int, span: int, ack_delay: int,
) -> bytearray:
    """REQUEST and name. The stamp is 0; `left` (ms) and the stamp are set again when it is sent."""
    head = bytearray(REQUEST.size + len(name))
    REQUEST.pack_into(
        head, 0, op, flags, len(name), number, group, left, order, sequence, scope, 0, generation, offset, size,
        span, ack_delay, 0,
    )
    head[REQUEST.size :] = name
    return head


def parse_request(request: Request, body: memoryview, now: float) -> None:
    """Fill `request` from `body`: HEADROOM free bytes, then REQUEST, name and payload.

    Raises `Malformed`. What is well-formed and wrong in content is judged later.
    """
    size = len(body)
    if size < RECORD_ROOM:
        raise Malformed("shorter than a REQUEST")
    (
        op, request.flags, named, request.number, request.group, left, request.order, sequence,
        request.scope, request.stamp, request.generation, request.offset, request.size, span, request.ack_delay, _,
    ) = REQUEST.unpack_from(body, HEADROOM)
    end = RECORD_ROOM + named
    if size < end:
        raise Malformed("a name that reaches beyond the message")
    request.op = op
    request.name = body[RECORD_ROOM:end].tobytes()
    payload = request.payload = body[end:]
    request.body = body
    request.sequence = sequence
    request.arrived = now
    request.deadline = now + left * 0.001
    if op >= _FIRST_MUTATION:
        if span > sequence:
            raise Malformed("a floor below zero")
        request.floor = sequence - span
        request.fragment = 0
        request.ranges = _NO_RANGES
        return
    request.floor = 0
    request.fragment = span
    if op != _READ:
        request.ranges = _NO_RANGES
        return
    if size - end == RANGE.size and DATAGRAM_MIN <= span <= DATAGRAM_MAX:
        offset, length = RANGE.unpack(payload)
        if 0 < length <= span - LONE_OVERHEAD and offset + length <= OBJECT_MAX:
            request.ranges = ((offset, length),)
            request.wire = length + LONE_OVERHEAD
            return
    request.ranges, request.wire = parse_ranges(payload, span)


def parse_ranges(payload: memoryview, fragment: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """The ranges of a READ, and the size of its answer. Raises `Malformed` when that would not fit one burst."""
    count, rest = divmod(len(payload), RANGE.size)
    if rest or not 0 < count <= RANGES_MAX or not DATAGRAM_MIN <= fragment <= DATAGRAM_MAX:
        raise Malformed("ranges that cannot be")
    ranges = tuple(RANGE.iter_unpack(payload))
    total = datagrams = wire = 0
    for offset, length in ranges:
        if not 0 < length <= BURST_MAX or offset + length > OBJECT_MAX:
            raise Malformed("a range outside of any object")
        total += length
        datagrams += fragments(length, fragment)
        wire += answer_size(length, fragment)
    if total > BURST_MAX or datagrams > GSO_SEGMENTS_MAX or wire > BURST_WIRE_MAX:
        raise Malformed("ranges beyond one burst")
    return ranges, wire


def named_rightly(request: Request) -> bool:
    """Whether the length of the name suits the operation: objects have names of 1 to 1,024 bytes."""
    return (0 if request.op in _NAMELESS else 1) <= len(request.name) <= NAME_MAX


def parse_reply(body: memoryview) -> tuple[int, int, int, int, int, int, int, memoryview]:
    """(number, status, order, verifier, version, stamp, object size, data) of a REPLY. Raises `Malformed`."""
    if len(body) < REPLY.size:
        raise Malformed("shorter than a REPLY")
    status, _, length, number, order, verifier, version, stamp, size = REPLY.unpack_from(body)
    if len(body) != REPLY.size + length:
        raise Malformed("a REPLY whose length is not its data's")
    return number, status, order, verifier, version, stamp, size, body[REPLY.size :]


def parse_retry(body: memoryview) -> int:
    """The stamp of a RETRY. Raises `Malformed`."""
    if len(body) != RETRY.size:
        raise Malformed("a RETRY of the wrong length")
    stamp: int = RETRY.unpack(body)[0]
    return stamp


def parse_probe(body: memoryview) -> tuple[int, int]:
    """(stamp, size of the answer wanted or 0) of a PROBE. Raises `Malformed`."""
    if len(body) < PROBE.size:
        raise Malformed("shorter than a PROBE")
    stamp, size = PROBE.unpack_from(body)
    if size > DATAGRAM_MAX:
        raise Malformed("a PROBE for more than a datagram")
    return stamp, size


def parse_probe_ack(body: memoryview) -> tuple[int, int]:
    """(packet number of the PROBE, its size as received) of a PROBE_ACK. Raises `Malformed`."""
    if len(body) < PROBE_ACK.size:
        raise Malformed("shorter than a PROBE_ACK")
    packet, size = PROBE_ACK.unpack_from(body)
    return packet, size
