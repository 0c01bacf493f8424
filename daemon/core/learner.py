"""A member that is catching up (R23-R26): joins its primary, takes the log or an inventory, waits to be grown in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.effects import Append
from daemon.core.follower import Follower
from daemon.core.inventory import Inventory
from daemon.core.messages import Item, Join, JoinOk, ReviveTell
from daemon.core.revival import Revival
from store.control.arbiter import GetConfig

if TYPE_CHECKING:
    from daemon.core.group import Group


class Learner(Follower):
    """Follows only after its join was answered. Everything it takes is synced at once (R14)."""

    __slots__ = ("_begun", "_inventory", "_join_at", "revival")
    name = "learner"

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._join_at = float("-inf")
        self._begun = 0  # the attempt whose JoinOk has been taken
        self._inventory: Inventory | None = None
        self.revival = Revival(self)

    def enter(self, now: float) -> None:
        self.group.outbox.busy[self.group] = None

    def tick(self, now: float) -> bool:
        limits = self.group.limits
        lost = not self.joined or now - self.group.heard > limits.lease
        if lost and now - self._join_at > limits.join_retry:
            self._join(now)
        elif self.joined and self._inventory:
            self._inventory.tick(now)
        self.revival.tick(now)
        return True

    def _join(self, now: float) -> None:
        group = self.group
        self._join_at, self.joined, self._inventory = now, False, None
        group.regard()
        group.attempt = max(group.attempt + 1, int(now * 1e9))
        who = group.identity.present()
        if self.leader.device != who.device:
            message = Join(group.id, who, group.order, group.base_n, group.base_epoch, group.whole, group.attempt)
            group.outbox.send(self.leader.device, message)
        group.outbox.tell(GetConfig(group.id))

    def on_join_ok(self, now: float, m: JoinOk) -> None:
        group = self.group
        if self.joined or m.attempt != group.attempt or m.order != group.order or self._begun == m.attempt:
            return
        if group.adopted_config().epoch < group.promised or group.frozen:
            return
        group.heard = now
        if m.tables is not None:
            self._begun = m.attempt  # a JoinOk is taken once
            self._begin_inventory(m)
        elif group.whole and (m.base_n, m.base_epoch) == (group.base_n, group.base_epoch):
            self._begin_delta(now)

    def _begin_delta(self, now: float) -> None:
        """R24: back to the base, and take the log from there."""
        group = self.group
        if not self._rewind(now):
            group.whole = False  # the next join asks for an inventory
            group.save(_nothing, whole=False)
            return
        self.matched = group.commit
        self._follow_on()

    def _rewind(self, now: float) -> bool:
        """Go back to the base: the applied state may hold records that the primary has replaced."""
        group = self.group
        if group.commit == group.base_n:
            return True
        tables = group.objects.rewind(group.id)
        if tables is None:
            return False
        group.tables.load(tables, now)
        group.commit = group.base_n
        return True

    def _begin_inventory(self, m: JoinOk) -> None:
        """R25a: until the copy is complete it is marked so on the disk."""
        group = self.group
        group.whole = False
        group.copying, group.copied = m.attempt, 0
        group.save(lambda now: self._copy(now, m), whole=False)

    def _copy(self, now: float, m: JoinOk) -> None:
        group = self.group
        if group.role is not self or m.attempt != group.attempt:
            return
        group.whole = False
        group.restart_log(m.base_n, m.base_epoch)
        group.tables.load(m.tables or b"", now)
        group.objects.begin_copy(group.id)
        group.heard = now
        self.matched = m.base_n
        self._inventory = Inventory(self, m.attempt)
        self._follow_on()
        self._inventory.fetch(now)

    def _follow_on(self) -> None:
        self.joined = True
        self.told = 0
        self.group.regard()

    def on_item(self, now: float, m: Item) -> None:
        if self.joined and self._inventory and m.attempt == self.group.attempt:
            self.group.heard = now
            self._inventory.item(now, m)

    def on_revive_tell(self, now: float, m: ReviveTell) -> None:
        self.revival.told(m)

    def take(self, now: float, append: Append) -> None:
        self.group.heard = now
        super().take(now, append)

    def catch_up(self, now: float) -> None:
        if self.group.whole:
            super().catch_up(now)
        elif self._inventory:
            self._inventory.moved(now)

    def sync_moved(self, now: float) -> None:
        super().sync_moved(now)
        if self._inventory and not self.group.whole:
            self._inventory.moved(now)

    def _attempt(self) -> int:
        return self.group.attempt

    def _syncs_all(self) -> bool:
        return True

    def state(self, now: float) -> str:
        return "incomplete" if self.revival.possible() and not self.joined else self.name


def _nothing(now: float) -> None:
    """Nothing waits for this save."""
