"""How much this device holds of each pool, for `store pool ls` and `store status`: exact as of a recent checkpoint.

Counting reads the whole index, so it is done after a checkpoint only, and seldom where there is much to count.
"""

from collections.abc import Callable
from typing import Final

import structlog

from daemon.storage.disk import Disk
from daemon.storage.index import DamagedRow
from store.control.messages import PoolUsage

log = structlog.get_logger()

SECONDS_PER_OBJECT: Final = 0.001  # 10,000 objects are counted, in a few milliseconds, every 10 s at the most


class Census:
    """Keeps the last count."""

    def __init__(self, disk: Disk, clock: Callable[[], float]) -> None:
        self._disk, self._clock = disk, clock
        self._checkpoints = -1  # at the last count
        self._not_before = 0.0
        self._counted: tuple[PoolUsage, ...] = ()

    def pools(self) -> tuple[PoolUsage, ...]:
        now = self._clock()
        if self._disk.checkpoints != self._checkpoints and now >= self._not_before:
            try:
                rows = self._disk.usage()
            except DamagedRow as error:
                log.error("the index is damaged; see `python -m daemon.storage.check`", reason=str(error))
                rows = []
            self._counted = tuple(PoolUsage(pool, objects, size) for pool, objects, size in rows)
            self._checkpoints = self._disk.checkpoints
            self._not_before = now + SECONDS_PER_OBJECT * sum(usage.objects for usage in self._counted)
        return self._counted
