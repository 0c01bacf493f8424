"""One read credit per client, over all daemons: what many daemons send at once must fit the client's own link.

Without it 64 daemons that answer together lose a third of their datagrams in the client's switch port. The rules and
their reasons: TRANSPORT.md, section 5.
"""

from typing import Final, Protocol

from store.limits import KIB
from store.session.estimate import WindowedMinimum
from store.session.tide import FLOOR_MAX, Tide

START: Final = 256 * KIB
FLOOR: Final = 128 * KIB
WINDOW_MIN_S: Final = 0.01
ARRIVALS_S: Final = 10.0
LOSS: Final = 0.03  # beyond what the paths lose whatever we do
QUIET_WINDOWS: Final = 16  # without growth, after loss
TARGET_MIN_S: Final = 0.001
TARGET_MAX_S: Final = 0.005


class Route(Protocol):
    """What the credit looks at in a path."""

    tide: Tide
    base_rtt: float
    flight: int


class Credit:
    """Bytes asked for and neither received, parked nor lost, of all endpoints of one thread."""

    __slots__ = (
        "_arrived", "_best", "_limited", "_lost", "_memory", "_next", "_paths", "_quiet", "_since", "limit", "used",
    )

    def __init__(self, memory: int) -> None:
        """`memory`: bytes of destination buffers the client can have outstanding at all."""
        self._memory = max(FLOOR, memory)
        self.limit = min(START, self._memory)
        self.used = 0
        self._paths: dict[Route, None] = {}  # active in this window
        self._arrived = self._lost = 0  # bytes in this window
        self._best = WindowedMinimum(ARRIVALS_S)  # of the negated arrival rate
        self._limited = False
        self._quiet = 0
        self._since = 0.0
        self._next = 0.0

    def room(self) -> int:
        """Bytes that may be asked for now."""
        return self.limit - self.used

    def short(self) -> None:
        """A path had more to ask for than the credit allowed."""
        self._limited = True

    def arrived(self, now: float, path: Route, size: int, lost: int) -> None:
        """What one flush of a path took in, and what it lost: bytes."""
        self._paths[path] = None
        self._arrived += size
        self._lost += lost
        if now >= self._next:
            self._adjust(now)

    def _adjust(self, now: float) -> None:
        """The end of a window."""
        paths = list(self._paths)
        rtt = sum(path.base_rtt for path in paths) / len(paths)
        elapsed = now - self._since
        if 0 < elapsed < ARRIVALS_S:
            self._best.add(now, -self._arrived / elapsed)
            self._move(paths, rtt)
        self._paths.clear()
        self._lost = self._arrived = 0
        self._limited = False
        self._since = now
        self._next = now + max(WINDOW_MIN_S, rtt)

    def _move(self, paths: list[Route], rtt: float) -> None:
        best = -self._best.value
        if self._quiet:
            self._quiet -= 1
        if len(paths) == 1:  # its own window looks after it
            if self._limited:
                self.limit = min(2 * self.limit, self._memory)
            return
        tolerated = LOSS + max(FLOOR_MAX if path.tide.starting else 1.25 * path.tide.floor for path in paths)
        crowded = sum(path.tide.queue > path.tide.target(path.base_rtt) for path in paths)
        ceiling = max(START, int(2 * best * rtt))
        if self._lost > tolerated * (self._arrived + self._lost) + 2 * paths[0].tide.size:
            self.limit = max(FLOOR, int(self.limit * 0.7))
            self._quiet = QUIET_WINDOWS
        elif crowded * 4 >= len(paths):
            target = min(max(rtt, TARGET_MIN_S), TARGET_MAX_S)
            self.limit = max(FLOOR, min(self.limit, int(1.25 * best * (rtt + target))))
        elif self._limited and not self._quiet:
            self.limit = min(2 * self.limit, ceiling, self._memory)
        self.limit = min(self.limit, ceiling)
