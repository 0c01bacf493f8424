"""Keeps a disk in shape between batches: completions, checkpoints in slices, room in the journal.

Nothing here runs on a clock while the daemon is idle: a checkpoint that is due is finished in short slices, and after
that there is no timer left.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from daemon.core.device import DeviceCore
from daemon.storage.disk import Disk

SLICE_S: Final = 0.002  # between two slices of a checkpoint while nobody writes
AGAIN_S: Final = 0.25  # until the core is asked again for a checkpoint that it could not begin
SETTLE_S: Final = 10.0  # after the last write, what is left in the journal goes to the data file


class Upkeep:
    """Looks at the disk after every batch, and on its own only as long as something is unfinished."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        core: DeviceCore,
        clock: Callable[[], float],
        run: Callable[[], None],
    ) -> None:
        self._loop, self._disk, self._core, self._clock, self._run = loop, disk, core, clock, run
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._patience = 0.0
        self._tail = disk.tail
        self._carried = 0

    def start(self) -> None:
        self._loop.add_reader(self._disk.fileno(), self._ready)

    def close(self) -> None:
        self._loop.remove_reader(self._disk.fileno())
        for timer in (self._timer, self._settling, self._asking):
            if timer is not None:
                timer.cancel()

    def _ready(self) -> None:
        self._disk.on_ready()
        if self._disk.tail != self._tail:
            self._tail = self._disk.tail
            self._core.trimmed(self._clock(), self._tail)
        self._run()

    def after_batch(self) -> None:
        disk = self._disk
        disk.pace()
        pressure = disk.pressure()
        if pressure.carry_before > self._carried:
            self._carried = pressure.carry_before
            self._loop.call_soon(self._carry, pressure.carry_before)
        if pressure.checkpoint:
            if self._asking is None:
                self._asking = self._loop.call_later(self._patience, self._checkpoint)
        elif disk.working and self._timer is None:
            self._timer = self._loop.call_later(SLICE_S, self._slice)
        elif disk.dirty and self._settling is None:
            self._settling = self._loop.call_later(SETTLE_S, self._settle)

    def _checkpoint(self) -> None:
        """Ask the core. It may have nothing to move, or be in the middle: then it is left alone for a while."""
        self._asking = None
        self._patience = AGAIN_S
        self._core.checkpoint(self._clock())
        self._run()
        if not self._disk.pressure().checkpoint:
            self._patience = 0.0

    def _carry(self, before: int) -> None:
        self._core.carry(self._clock(), before)
        self._run()

    def _slice(self) -> None:
        self._timer = None
        self._disk.work()
        if self._disk.working:
            self._timer = self._loop.call_later(SLICE_S, self._slice)

    def _settle(self) -> None:
        self._settling = None
        if self._disk.dirty:
            self._checkpoint()
