"""The master's clocks: durations by CLOCK_BOOTTIME, dates by the wall clock. Cores are given values, never this."""

import time
from typing import Protocol


class Clock(Protocol):
    def boot(self) -> float:
        """Seconds since the machine started, suspended time included."""

    def wall(self) -> int:
        """Unix seconds."""


class SystemClock:
    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> int:
        return int(time.time())
