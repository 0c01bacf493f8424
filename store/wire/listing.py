"""The answer of a LIST: rows of one group's objects in the order of their names. Pure.

A LIST asks with its name for a prefix, with its payload for names behind that one, with its size for at most so many
rows. The REPLY's data are rows as they fit into one datagram; its object size is 1 if there are more, else 0.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from store.wire.header import Malformed

ROW: Final = struct.Struct("<HIQ")  # bytes of name that follow, object size, version token


class Listed(NamedTuple):
    name: bytes
    size: int
    version: int


def pack_listing(rows: Iterable[tuple[bytes, int, int]], room: int) -> tuple[bytes, bool]:
    """The rows that fit into `room` bytes, and whether all did."""
    out = bytearray()
    for name, size, version in rows:
        if len(out) + ROW.size + len(name) > room:
            return bytes(out), False
        out += ROW.pack(len(name), size, version)
        out += name
    return bytes(out), True


def unpack_listing(data: bytes | memoryview) -> Iterator[Listed]:
    """Raises Malformed."""
    view, at = memoryview(data), 0
    while at < len(view):
        if len(view) - at < ROW.size:
            raise Malformed("a row cut short")
        length, size, version = ROW.unpack_from(view, at)
        at += ROW.size
        if length > len(view) - at:
            raise Malformed("a name cut short")
        yield Listed(bytes(view[at : at + length]), size, version)
        at += length
