"""An image as objects: which of them a range falls into, what they are called, and the requests that go to them. Pure.

Byte B of the image is byte B mod OBJECT_MAX of object B div OBJECT_MAX; object I of an image with prefix P is named P
followed by I in decimal. Every request carries the image's id as its lock scope and the generation of the lock held.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from store.client.operation import Operation
from store.ids import GroupId
from store.limits import BLOCK, OBJECT_MAX
from store.wire.header import Flag, Op

OBJECT_SHIFT: Final = OBJECT_MAX.bit_length() - 1
_INSIDE: Final = OBJECT_MAX - 1

assert 1 << OBJECT_SHIFT == OBJECT_MAX


class Piece(NamedTuple):
    """The part of a range that lies in one object."""

    number: int  # of the object
    offset: int  # in the object
    length: int
    position: int  # in the caller's range


class ImageLayout:
    """Fixed while the image is open, but for `size`. A reader without a lock has generation 0, so no scope."""

    def __init__(
        self, prefix: bytes, size: int, image_id: int, generation: int, group_of: Callable[[bytes], GroupId]
    ) -> None:
        self.prefix, self.size = prefix, size
        self.scope, self.generation = (image_id, generation) if generation else (0, 0)
        self._group_of = group_of
        self._places: dict[int, tuple[GroupId, bytes]] = {}  # objects by number; 200 bytes for each one used

    @property
    def objects(self) -> int:
        return -(-self.size // OBJECT_MAX)

    def place(self, index: int) -> tuple[GroupId, bytes]:
        """Group and name of an object."""
        place = self._places.get(index)
        if place is None:
            name = b"%b%d" % (self.prefix, index)
            place = self._places[index] = (self._group_of(name), name)
        return place

    def group(self, index: int) -> GroupId:
        return self.place(index)[0]

    def groups(self) -> list[GroupId]:
        """Every group that holds or could hold an object of the image: those that a new lock must fence (R36)."""
        prefix, group_of = self.prefix, self._group_of
        return sorted({group_of(b"%b%d" % (prefix, index)) for index in range(self.objects)})

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        position = 0
        while position < length:
            inside = offset + position & _INSIDE
            part = min(length - position, OBJECT_MAX - inside)
            yield Piece(offset + position >> OBJECT_SHIFT, inside, part, position)
            position += part

    def clearings(self, offset: int, length: int) -> Iterator[Piece]:
        """As `pieces`, cut further so that each is a run of whole blocks or part of one block."""
        for piece in self.pieces(offset, length):
            start, stop = piece.offset, piece.offset + piece.length
            cuts = [start, min(start + BLOCK - 1 & -BLOCK, stop), max(stop & -BLOCK, start), stop]
            for low, high in pairwise(cuts):
                if low < high:
                    yield Piece(piece.number, low, high - low, piece.position + low - start)

    # --- requests ----------------------------------------------------------------------------------------------------

    def read(self, offset: int, into: memoryview, until: float) -> Operation:
        """A read that stays inside one object."""
        index = offset >> OBJECT_SHIFT
        group, name = self._places.get(index) or self.place(index)
        return Operation(
            Op.READ, group, name, until, offset=offset & _INSIDE, into=into, scope=self.scope,
            generation=self.generation,
        )  # fmt: skip

    def write(self, offset: int, data: bytes | memoryview, durable: Flag, until: float) -> Operation:
        """A write that stays inside one object; `durable` is Flag.DURABLE or Flag(0)."""
        index = offset >> OBJECT_SHIFT
        group, name = self._places.get(index) or self.place(index)
        return Operation(
            Op.WRITE, group, name, until, offset=offset & _INSIDE, size=len(data), payload=data, flags=durable,
            scope=self.scope, generation=self.generation,
        )  # fmt: skip

    def clear(self, offset: int, length: int, until: float) -> Operation:
        """Durable zeros: the object goes, a hole is punched, or part of a block is overwritten."""
        index, inside = offset >> OBJECT_SHIFT, offset & _INSIDE
        group, name = self.place(index)
        op, payload = Op.TRIM, b""
        if length == OBJECT_MAX:
            op = Op.DELETE
        elif (inside | length) & BLOCK - 1:
            op, payload = Op.WRITE, bytes(length)
        return Operation(
            op, group, name, until, offset=inside, size=length, payload=payload, flags=Flag.DURABLE, scope=self.scope,
            generation=self.generation,
        )  # fmt: skip

    def stat(self, index: int, until: float) -> Operation:
        group, name = self.place(index)
        return Operation(Op.STAT, group, name, until, scope=self.scope, generation=self.generation)

    def flush(self, group: GroupId, until: float) -> Operation:
        return self._nameless(Op.FLUSH, group, until)

    def fence(self, group: GroupId, until: float) -> Operation:
        return self._nameless(Op.FENCE, group, until)

    def _nameless(self, op: Op, group: GroupId, until: float) -> Operation:
        return Operation(
            op, group, b"", until, flags=Flag.DURABLE, scope=self.scope, generation=self.generation
        )  # fmt: skip
