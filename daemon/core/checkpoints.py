"""Moving the bases of all groups at once (R17), and keeping the journal free for trimming (R28)."""

from __future__ import annotations

from daemon.core.effects import Checkpoint, Release
from daemon.core.group import Group
from daemon.core.objects import Objects
from daemon.core.outbox import Outbox
from daemon.core.saved import Base
from store.ids import GroupId


class Checkpoints:
    """One at a time. The bases are the commit points of one moment; they are written once the log is stable up to them,
    so the base never passes what is committed, nor what is synced."""

    __slots__ = ("_bases", "_copies", "_groups", "_objects", "_outbox", "_running", "_voided")

    def __init__(self, groups: dict[int, Group], objects: Objects, outbox: Outbox) -> None:
        self._groups = groups
        self._objects = objects
        self._outbox = outbox
        self._bases: dict[GroupId, Base] = {}
        self._copies: dict[GroupId, int] = {}  # inventories that end with this checkpoint: their attempts
        self._running = False
        self._voided = False  # objects of a removed group went without a record: worth a checkpoint of its own

    def void(self) -> None:
        """A group's objects were removed outside its log."""
        self._voided = True
        self._outbox.checkpoint_wanted = True

    def begin(self, now: float) -> None:
        if self._running:
            return
        self._outbox.checkpoint_wanted = False
        for group in self._groups.values():
            if (group.whole and group.commit > group.base_n) or group.copied:
                self._freeze(group)
        if self._bases or self._voided:
            self._running, self._voided = True, False
            self._objects.freeze()
            self._proceed(now)

    def _freeze(self, group: Group) -> None:
        group.frozen = True
        self._bases[group.id] = Base(group.commit, group.log.epoch_at(group.commit), group.tables.encode())
        if group.copied:
            self._copies[group.id] = group.copied

    def _proceed(self, now: float) -> None:
        """Write it as soon as every record below the bases is stable."""
        if any(self._groups[group].synced < base.n for group, base in self._bases.items()):
            self._outbox.after_sync(self._proceed)
            return
        self._outbox.emit(Checkpoint(self._outbox.token(self._done), dict(self._bases)))

    def _done(self, now: float) -> None:
        self._running = False
        if self._voided:
            self._outbox.checkpoint_wanted = True
        bases, self._bases = self._bases, {}
        copies, self._copies = self._copies, {}
        for group_id, base in bases.items():
            group = self._groups[group_id]
            group.frozen = False
            group.rebased(base.n, base.epoch)
            if group_id in copies:
                group.copy_stands(copies[group_id])

    def carry(self, before: int) -> None:
        """Write the records behind the bases again that stand before this journal offset; release it when stable."""
        carried = False
        for group in self._groups.values():
            log = group.log
            if log.last <= group.base_n:
                continue
            old = [entry for entry in log.between(group.base_n + 1, log.last) if 0 <= entry.where < before]
            if old:
                carried = True
                self._outbox.journal += old
        if carried:
            self._outbox.after_sync(lambda now: self._outbox.emit(Release(before)))
        else:
            self._outbox.emit(Release(before))

    def trimmed(self, before: int) -> None:
        """Forget records that can no longer be loaded from the journal."""
        for group in self._groups.values():
            log = group.log
            behind = log.entries[: group.base_n - log.after_n]
            gone = next((entry.n for entry in reversed(behind) if 0 <= entry.where < before), 0)
            log.trim(gone)
