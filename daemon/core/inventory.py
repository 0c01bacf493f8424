"""The copying side of an inventory (R25): objects one by one, nothing applied before the last has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.messages import Fetch, Item

if TYPE_CHECKING:
    from daemon.core.learner import Learner


class Inventory:
    """One attempt. Its end waits for a checkpoint, because the copy counts as whole only with its base on the disk."""

    __slots__ = ("_asked_at", "_attempt", "_copied_at", "_cursor", "_learner", "_tables")

    def __init__(self, learner: Learner, attempt: int) -> None:
        self._learner = learner
        self._attempt = attempt
        self._cursor: bytes | None = b""  # None: every object has arrived
        self._copied_at = -1  # commit point of the end; -1 = not known yet
        self._tables: bytes | None = None  # the tables there
        self._asked_at = 0.0

    def fetch(self, now: float) -> None:
        group = self._learner.group
        if self._cursor is not None:
            self._asked_at = now
            who = group.identity.present()
            message = Fetch(group.id, who, group.order, self._attempt, self._cursor)
            group.outbox.send(self._learner.leader.device, message)

    def tick(self, now: float) -> None:
        group = self._learner.group
        if self._cursor is not None and now - self._asked_at > group.limits.resend:
            self.fetch(now)

    def item(self, now: float, m: Item) -> None:
        group = self._learner.group
        if m.cursor != self._cursor:
            return
        if m.piece is None:
            self._cursor, self._copied_at, self._tables = None, m.commit, m.tables
            group.objects.end_copy(group.id)
            self.moved(now)
            return
        group.objects.install(group.id, m.piece)
        self._cursor = m.after
        self.fetch(now)

    def moved(self, now: float) -> None:
        """R25c, e: once the copying has ended, apply up to its commit point and take the tables of there."""
        if not self._may_apply():
            return
        learner, group = self._learner, self._learner.group
        group.apply_to(now, min(learner.told, learner.matched, self._copied_at))
        if group.commit < self._copied_at:
            return
        self._install_tables(now)
        if group.copied != self._attempt:
            group.copied = self._attempt
            group.outbox.sync_wanted = True
            group.outbox.checkpoint_wanted = True

    def _may_apply(self) -> bool:
        return self._copied_at >= 0

    def _install_tables(self, now: float) -> None:
        """The verdicts on forwarded records may differ from the primary's while objects are newer than the log."""
        if self._tables is not None:
            self._learner.group.tables.load(self._tables, now)
            self._tables = None
