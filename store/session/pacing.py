"""When the next burst may leave, and how large it is."""

from typing import Final

from store.limits import BURST_MAX

BURST_S: Final = 0.004  # of the rate: shorter bursts cost requests, longer ones overrun shallow buffers
DEBT_S: Final = 0.002  # lateness that may be made good: event loops wake at milliseconds


def burst_size(rate: float, window: float, size: int) -> int:
    """Bytes on the wire of one burst: 4 ms of the rate, at most an eighth of the window, 2 datagrams to 60 KiB."""
    return max(min(int(min(rate * BURST_S, window / 8)), BURST_MAX), min(2 * size, max(size, BURST_MAX)))

