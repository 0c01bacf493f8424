"""How the answer to a READ is cut into DATA datagrams: a rule both ends compute, so no datagram describes it.

Each range is cut by itself. Datagrams 0, 16, 32, ... of a range carry an ECHO and so 24 bytes less of data; all but
the last of a range are exactly as long as the READ allows, which makes them one train for segmentation offload.
"""

from typing import Final

from store.limits import ECHO_EVERY
from store.wire.header import DATA, ECHO, HEADER, TAG

DATA_OVERHEAD: Final = HEADER.size + DATA.size + TAG  # bytes around the data of a datagram without ECHO
ECHO_SIZE: Final = ECHO.size


def fragments(length: int, size: int) -> int:
    """How many datagrams of at most `size` bytes a range of `length` bytes takes (at least 1)."""
    room = size - DATA_OVERHEAD
    groups, rest = divmod(length, ECHO_EVERY * room - ECHO_SIZE)
    if rest == 0:
        return max(1, groups * ECHO_EVERY)
    return groups * ECHO_EVERY + 1 + max(0, -(-(rest - room + ECHO_SIZE) // room))


def fragment_start(index: int, size: int) -> int:
    """Where the data of datagram `index` of a range begins, in bytes from the start of the range."""
    return index * (size - DATA_OVERHEAD) - (index + ECHO_EVERY - 1) // ECHO_EVERY * ECHO_SIZE


def answer_size(length: int, size: int) -> int:
    """Bytes of all datagrams that answer a range of `length` bytes."""
    count = fragments(length, size)
    return length + count * DATA_OVERHEAD + (count + ECHO_EVERY - 1) // ECHO_EVERY * ECHO_SIZE


def range_within(wire: int, size: int) -> int:
    """The longest range whose answer takes at most `wire` bytes of whole datagrams (at least one datagram)."""
    return fragment_start(max(1, wire // size), size)
