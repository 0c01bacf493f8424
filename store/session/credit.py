"""One read credit per client, over all daemons: what many daemons send at once must fit the client's own link."""

from typing import Final

from store.limits import KIB

START: Final = 256 * KIB
FLOOR: Final = 128 * KIB


class Credit:
    """Bytes asked for and not yet received, parked or lost, of all endpoints of one thread."""

    __slots__ = ("limit", "used")

    def __init__(self, memory: int) -> None:
        """`memory`: bytes of destination buffers the client can have outstanding at all."""
        self.limit = max(FLOOR, memory)
        self.used = 0
