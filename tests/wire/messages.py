"""One example of every message and datagram, built by the code under test; `golden.txt` says what bytes they are."""

from collections.abc import Callable
from typing import Final

from store.wire.header import (
    DATA,
    DATA_ECHO,
    DATA_HOLE,
    ECHO,
    FRAGMENT,
    HEADER,
    HOLE,
    PROBE,
    PROBE_ACK,
    RANGE,
    REPLY,
    RETRY,
    TAG,
    TICKETED,
    Flag,
    Kind,
    Op,
)
from store.wire.message import pack_request
from store.wire.replay import ReplayWindow, pack_ack
from store.wire.seal import cipher, seal

KEY: Final = bytes(range(16))
SESSION: Final = 0x1122334455667788
LIFE: Final = 0xA0B0C0D0


def write() -> bytes:
    head = pack_request(
        Op.WRITE, int(Flag.DURABLE), 7, 1 << 16 | 5, b"image.12", left=30_000, order=3 << 32 | 9, sequence=100,
        scope=0xABCDEF, generation=4, offset=8192, size=0, span=36, ack_delay=2,
    )
    return bytes(head) + b"payload"


def read() -> bytes:
    head = pack_request(
        Op.READ, int(Flag.UNTORN), 8, 1 << 16 | 5, b"o", left=500, order=0, sequence=77, scope=0, generation=0,
        offset=0, size=0, span=1400, ack_delay=0,
    )
    return bytes(head) + RANGE.pack(4096, 4096) + RANGE.pack(65_536, 1)


def ack(*missing: int) -> bytes:
    window = ReplayWindow(0)
    for number in range(3000):
        if number not in missing:
            window.add(number)
    return pack_ack(window, 123_456, 65_536)


def data(flags: int, rest: bytes) -> bytes:
    return bytes(DATA.pack(0, flags, 2, 8, 4096, 1 << 20, 3 << 32 | 9, 55, 9 << 40 | 12)) + rest


def sealed(kind: int, body: bytes, packet: int, life: int, ticket: bytes = b"") -> bytes:
    block = len(ticket).to_bytes(2, "little") + ticket if ticket else b""
    start = HEADER.size + len(block)
    buffer = bytearray(start + len(body) + TAG)
    buffer[HEADER.size : start] = block
    buffer[start : start + len(body)] = body
    kind |= TICKETED if ticket else 0
    seal(cipher(KEY), memoryview(buffer), 0, start, len(buffer), kind, 1_000_000, SESSION, packet, life)
    return bytes(buffer)


EXAMPLES: Final[dict[str, Callable[[], bytes]]] = {
    "request.write": write,
    "request.read": read,
    "fragment": lambda: bytes(FRAGMENT.pack(7, 1300, 4_194_400)) + b"abc",
    "probe": lambda: bytes(PROBE.pack(0x0102030405060708, 8192)) + bytes(4),
    "probe_ack": lambda: bytes(PROBE_ACK.pack(41, 8192)) + bytes(4),
    "reply": lambda: bytes(REPLY.pack(8, 0, 3, 7, 3 << 32 | 9, 55, 9 << 40 | 12, 0x0102030405060708, 4096)) + b"abc",
    "data": lambda: data(0, b"bytes"),
    "data.echo": lambda: data(DATA_ECHO, bytes(ECHO.pack(41, 7 << 61, 3 << 61, 150)) + b"bytes"),
    "data.hole": lambda: data(DATA_ECHO | DATA_HOLE, bytes(ECHO.pack(41, 7 << 61, 3 << 61, 150) + HOLE.pack(4096))),
    "ack": ack,
    "ack.gaps": lambda: ack(2990, 2995, 2900),
    "ack.old-gap": lambda: ack(2500),
    "retry": lambda: bytes(RETRY.pack(0x0102030405060708)),
    "datagram.request": lambda: sealed(Kind.REQUEST, write(), 41, 0),
    "datagram.ticketed": lambda: sealed(Kind.REQUEST, write(), 42, 0, b"a ticket's bytes"),
    "datagram.reply": lambda: sealed(Kind.REPLY, EXAMPLES["reply"](), 1_700_000_000_000_000, LIFE),
    "datagram.empty": lambda: sealed(Kind.PROBE, b"", 2**64 - 1, 0),
}
