"""The clear, authenticated start of every datagram, and the fixed parts of the messages inside. See PROTOCOL.md."""

import struct
from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = 0xA1  # version 1
TICKETED: Final = 0x80  # flag on `kind`: a ticket stands between the header and the ciphertext
TAG: Final = 16  # bytes of the AEAD's tag

# magic, kind, length of the whole datagram, sender's clock in microseconds (wraps), session, packet number,
# life: 0 from clients, a random non-zero number of the process from daemons. Nonce = life + packet number.
HEADER: Final = struct.Struct("<BBHIQQI")
NONCE: Final = struct.Struct("<IQ")  # life, packet number


class Malformed(Exception):
    """Bytes that authenticate and still are no message of this protocol. They are counted and dropped."""


class Kind(IntEnum):
    """What a datagram carries. Below 16 from clients, from 16 on from daemons."""

    REQUEST = 1  # one whole request
    FRAGMENT = 2  # a piece of a request that is larger than a datagram
    PROBE = 3  # padding, to learn how large a datagram may be
    REPLY = 16  # the end of a request
    DATA = 17  # a piece of what a read asked for
    ACK = 18  # a copy of the replay window
    RETRY = 19  # prove your address: here is a stamp
    PROBE_ACK = 20


class Op(IntEnum):
    """What a request asks for."""

    READ = 1
    STAT = 2
    LIST = 3
    WRITE = 16  # put bytes at an offset; creates and extends
    CREATE = 17  # as WRITE at offset 0 of a new object; EXISTS if there is one
    REPLACE = 18  # the payload becomes the whole object
    DELETE = 19
    TRUNCATE = 20
    TRIM = 21  # a range becomes a hole; the size stays
    FLUSH = 22  # a durable record without effect (R35)
    FENCE = 23  # raises the lock generation of an image (R36)


class Flag(IntFlag):
    DURABLE = 1  # answer when synced on every in-sync member
    BACKGROUND = 2  # yields to foreground traffic
    UNTORN = 4  # READ: all ranges of one version; see `sequence`


FIRST_MUTATION: Final = Op.WRITE

# op, flags, bytes of name, request number, group, milliseconds left, | order hint (generation << 32 | epoch),
# sequence (READ with UNTORN: version token or 0), | scope (image id or 0), address stamp, |
# lock generation, offset, size, | sequence - floor (READ: fragment size), ack delay in ms, spare
REQUEST: Final = struct.Struct("<BBHIIIQQQQIIIHBB")
RANGE: Final = struct.Struct("<II")  # offset, length: the body of a READ
FRAGMENT: Final = struct.Struct("<III")  # request number, offset in the message, length of the message

# status, flags, bytes of data that follow, request number, order, verifier, version token, address stamp, object size
REPLY: Final = struct.Struct("<BBHIQQQQI")
# status, flags, spare, burst number (= request number), offset in the object, object size, order, verifier, version
DATA: Final = struct.Struct("<BBHIIIQQQ")
DATA_ECHO: Final = 1  # an ECHO follows the DATA header
DATA_HOLE: Final = 2  # no bytes follow; a HOLE length does
DATA_CAPPED: Final = 4  # the daemon's own cap delays its answers, not somebody else's traffic
ECHO: Final = struct.Struct("<IQQI")  # top request packet number, received and answered bitmaps below it, held us
# top packet number received, its timestamp, window, bytes of bitmap that follow
ACK: Final = struct.Struct("<QIIH")
RETRY: Final = struct.Struct("<Q")  # stamp
PROBE: Final = struct.Struct("<QI")  # stamp, size the answer is to be padded to (0: as short as it is); zeros follow
PROBE_ACK: Final = struct.Struct("<QI")  # packet number of the PROBE, its size as received; zeros follow
HOLE: Final = struct.Struct("<I")  # bytes of zeros that a DATA with DATA_HOLE stands for
TICKET_LENGTH: Final = struct.Struct("<H")  # before the ticket of a TICKETED datagram

assert HEADER.size == 28 and REQUEST.size == 64
