"""How much of the journal is still needed: by the data file, by the core, and by records that stand before both.

Three things must be past a position before the ring may use it again: the last completed checkpoint, what the core
has released, and the start of the next scan as the index on disk has it. Some records stand before the end of a
checkpoint and are needed after it: those applied after its freeze, and those that the core wanted to carry when the
ring had no room for a second copy.
"""

from daemon.core.record import Entry
from daemon.storage.background import Background
from daemon.storage.index import Index
from daemon.storage.journal import Journal
from daemon.storage.table import ObjectTable
from store.ids import GroupId


class Retention:
    def __init__(self, journal: Journal, index: Index, table: ObjectTable, background: Background) -> None:
        self._journal, self._index, self._table, self._background = journal, index, table, background
        self.checkpointed = 0  # the data file needs nothing before this position
        self._released = 0  # nor does the core
        self._frozen_at = 0  # end of the journal at the last freeze
        self._stragglers: dict[int, Entry] = {}  # by position: applied after the last freeze, stand before it
        self._old_stragglers: dict[int, Entry] = {}  # the same of the freeze before, until that is in the data file
        self._left_behind: dict[int, Entry] = {}  # not carried for want of room
        self._trimming = False

    def frozen(self, position: int) -> None:
        self._frozen_at = position
        self._old_stragglers, self._stragglers = self._stragglers, {}

    def applied(self, entry: Entry) -> None:
        if entry.where < self._frozen_at:
            self._stragglers[entry.where] = entry

    def carried(self, old: int) -> None:
        """The record that stood at `old` has another place."""
        for places in (self._stragglers, self._old_stragglers, self._left_behind):
            places.pop(old, None)

    def leave_behind(self, entry: Entry) -> None:
        """The core takes the record for carried; it stays where it is and holds up the trimming."""
        self._left_behind[entry.where] = entry

    def cut(self, group: GroupId, n: int) -> None:
        if self._left_behind:
            kept = {at: entry for at, entry in self._left_behind.items() if entry.group != group or entry.n < n}
            self._left_behind = kept

    def checkpoint_done(self, position: int) -> None:
        """A checkpoint is complete; the data file needs nothing before the position."""
        self.checkpointed = position
        self._old_stragglers.clear()
        if self._left_behind:
            shelf = self._table.shelf
            kept = {at: entry for at, entry in self._left_behind.items() if entry.n > shelf(entry.group).base_n}
            self._left_behind = kept
        self.trim()

    def release(self, before: int) -> None:
        self._released = max(self._released, before)
        self.trim()

    def trim(self) -> None:
        """Give the ring back what nobody needs, once the index says where to begin instead."""
        held = (*self._stragglers, *self._old_stragglers, *self._left_behind)
        target = min(self._released, self.checkpointed, *held)
        mark = self._journal.mark_before(target)
        if self._trimming or mark.position > target or mark.position <= self._journal.tail:
            return

        def trimmed() -> None:
            self._trimming = False
            self._journal.trim(mark)
            self.trim()

        self._trimming = True
        self._background.start(lambda: self._index.commit_scan_start(mark), trimmed)

    def loadable_from(self) -> int:
        """Records from here on can be loaded. Moves in steps, ahead of what is overwritten."""
        journal = self._journal
        step = journal.size // 16
        return min(journal.tail, max(0, ((journal.position - journal.size) // step + 2) * step))
