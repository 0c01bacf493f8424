"""A member that follows a primary: takes its records, applies what it commits, grants it leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.effects import AckRow, Append
from daemon.core.proposal import PROMOTE
from daemon.core.record import Entry
from daemon.core.role import Role
from store.ids import Who
from store.wire.header import Flag

if TYPE_CHECKING:
    from daemon.core.group import Group

_DURABLE = int(Flag.DURABLE)


class Follower(Role):
    """What secondaries and learners have in common: the log rules R14 and R16."""

    __slots__ = ("_cleaned", "joined", "leader", "matched", "start", "told")

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.leader: Who = group.adopted_config().primary
        self.joined = False
        self.matched = group.commit  # highest position known to agree with the primary's log in this epoch
        self.start = 0  # last position of the primary's log when the epoch began
        self.told = 0  # highest commit point heard
        self._cleaned = float("inf")  # records beyond this position have been checked for older epochs

    def take(self, now: float, append: Append) -> None:
        """R14: take the records only if the one before them matches."""
        group = self.group
        log = group.log
        entries = append.entries
        before = entries[0].n - 1
        prompt = True
        if before <= log.last and self._fits(before, entries[0].prev_epoch):
            if before == log.last:
                prompt = self._extend(entries)
            else:
                self._overlap(entries)
            self.matched = max(self.matched, before + len(entries))
        self.follow(now, append.commit, append.start)
        if prompt:
            group.outbox.acks[group] = None

    def _fits(self, n: int, epoch: int) -> bool:
        return n <= self.group.commit or self.group.log.epoch_at(n) == epoch

    def _extend(self, entries: list[Entry]) -> bool:
        """All records are new: the common case. False: the primary can do nothing with an acknowledgement that comes
        before the sync, since all records are durable ones."""
        group = self.group
        outbox = group.outbox
        append = group.log.append
        durable = 0
        for entry in entries:
            entry.where = -1
            append(entry)
            if entry.flags & _DURABLE:
                durable += 1
        outbox.journal += entries
        if not group.dirty:
            outbox.soil(group)
        if durable or entries[0].n <= self.start or self._syncs_all():
            outbox.sync_wanted = True
        return durable < len(entries)

    def _overlap(self, entries: list[Entry]) -> None:
        """Some records are held already, or others stand in their place."""
        group = self.group
        log = group.log
        for i, entry in enumerate(entries):
            if entry.n <= group.commit:
                continue
            if entry.n <= log.last:
                if log.epoch_at(entry.n) == entry.epoch:
                    continue
                group.cut(entry.n)
            self._extend(entries[i:])
            return

    def follow(self, now: float, commit: int, start: int) -> None:
        """Drop what the primary did not have when its epoch began; apply what is committed."""
        group = self.group
        if start != self.start:
            self._note_start(start)
        if start < self._cleaned:
            self._clean(start)
        self.told = max(self.told, commit)
        if group.commit < commit or not group.whole:
            self.catch_up(now)

    def _note_start(self, start: int) -> None:
        """Everything up to the start of the epoch must be stable before it is committed (R15)."""
        self.start = max(self.start, start)
        if self.group.synced < min(self.start, self.group.log.last):
            self.group.outbox.sync_wanted = True

    def _clean(self, start: int) -> None:
        self._cleaned = start
        group = self.group
        log = group.log
        epoch = group.adopted_config().epoch
        for n in range(max(start, group.commit) + 1, log.last + 1):
            if log.epoch_at(n) < epoch:
                group.cut(n)
                return

    def catch_up(self, now: float) -> None:
        """Apply what is committed and held."""
        self.group.apply_to(now, min(self.told, self.matched))

    def written(self, now: float) -> None:
        self.catch_up(now)

    def sync_moved(self, now: float) -> None:
        if self.group.follows is self:
            self.group.outbox.acks[self.group] = None

    def ack_row(self) -> AckRow:
        """What the primary may count on: matched, never the head (R14)."""
        group = self.group
        matched = self.matched
        return (group.id, group.order, matched, min(group.synced, matched), group.whole, self._attempt())

    def _attempt(self) -> int:
        return 0

    def _syncs_all(self) -> bool:
        return False

    def grant(self, now: float, commit: int, start: int) -> AckRow:
        """A beat of the primary: the answer is a lease."""
        self.group.granted = self.group.heard = now
        self.follow(now, commit, start)
        return self.ack_row()


class Secondary(Follower):
    """In sync. Asks to become primary when the present one has been silent for longer than its lease can last."""

    __slots__ = ("_since",)
    name = "secondary"

    def __init__(self, now: float, group: Group) -> None:
        super().__init__(group)
        self.joined = True
        self._since = now

    def enter(self, now: float) -> None:
        """Say hello: the primary need not wait for a beat to learn of us."""
        if self.group.follows is self:
            self.group.outbox.acks[self.group] = None
            if self.group.synced < self.group.log.last:
                self.group.outbox.sync_wanted = True

    def tick(self, now: float) -> bool:
        group = self.group
        if group.proposal is None and now - max(group.granted, self._since) > self._grace():
            self._since = now  # asked once; the proposal repeats itself
            self._ask_promotion(now)
        return False

    def _grace(self) -> float:
        return self.group.limits.grace

    def _ask_promotion(self, now: float) -> None:
        """R9: first promise on disk to obey nothing of this epoch any more."""
        self.group.promise(self.group.adopted_config().epoch + 1, self.promised)

    def promised(self, now: float) -> None:
        group = self.group
        if group.role is self and not group.proposal:
            in_sync = tuple(who for who in group.adopted_config().in_sync if who != self.leader)
            group.propose(now, PROMOTE, in_sync, primary=group.identity.present()).send(now)
