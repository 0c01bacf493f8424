"""One group on one device: what outlives a configuration. The roles do the rest."""

from __future__ import annotations

from typing import Final

import msgspec

from daemon.core.follower import Follower, Secondary
from daemon.core.identity import Identity
from daemon.core.learner import Learner
from daemon.core.limits import Limits
from daemon.core.log import Broken, Log
from daemon.core.objects import Objects
from daemon.core.outbox import Outbox, Then
from daemon.core.primary import Primary
from daemon.core.proposal import Proposal
from daemon.core.record import Entry
from daemon.core.role import Role
from daemon.core.saved import GroupFields, SavedGroup
from daemon.core.tables import Tables
from store.control.arbiter import ConfigIs
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig

NEVER: Final = (1 << 63) - 1  # promised: no epoch reaches it


class Group:
    """Configuration, log, tables and positions of a group. Positions: base <= commit <= matched <= log.last."""

    __slots__ = (
        "active", "adopting", "attempt", "base_epoch", "base_n", "commit", "config", "copied", "copying", "covering",
        "dirty", "fields", "follows", "frozen", "granted", "heard", "id", "identity", "joint", "limits", "log",
        "objects", "order", "outbox", "primary", "promised", "proposal", "role", "started", "synced", "tables", "whole",
    )  # fmt: skip

    def __init__(
        self, now: float, group: GroupId, saved: SavedGroup, identity: Identity, objects: Objects, limits: Limits
    ) -> None:
        """A start: commit, matched and synced begin at the base (R16), and the restart counts as a grant (R8)."""
        self.id = group
        self.identity = identity
        self.objects = objects
        self.limits = limits
        self.outbox: Outbox = identity.outbox
        self.fields: GroupFields = saved.fields  # the newest handed to the disk; what it says may not be stable yet
        self.config = saved.fields.config
        self.order = self.config.order_token if self.config else -1
        self.promised = saved.fields.promised
        self.whole = saved.fields.whole
        self.joint = saved.fields.joint if saved.fields.joint_order == self.order else None
        self.base_n, self.base_epoch = saved.base.n, saved.base.epoch
        self.log = Log(self.base_n, self.base_epoch)
        self.tables = Tables(limits.sessions, limits.locks)
        self.tables.load(saved.base.tables, now)
        self.commit = self.synced = self.base_n
        self.covering = 0  # the Sync under way makes the log stable up to here; 0 = nothing of it
        self.dirty = False
        self.frozen = False  # a checkpoint that holds this group is being written
        self.started = self.granted = now
        self.heard = float("-inf")  # when a primary last spoke to this learner
        self.attempt = 0  # of the latest join
        self.copying = 0  # attempt of the inventory under way
        self.copied = 0  # attempt of the inventory whose end waits for a checkpoint
        self.adopting: GroupConfig | None = None
        self.proposal: Proposal | None = None
        self.role: Role = Role(self)
        self.primary: Primary | None = None  # the role, if it is this one
        self.active: Primary | None = None  # the same, while clients may be served
        self.follows: Follower | None = None  # the role, while its primary is obeyed
        if self.whole:
            self._recall(saved.tail)

    def _recall(self, tail: list[Entry]) -> None:
        for entry in tail:
            self.log.append(entry)
        if tail:
            self.outbox.soil(self)

    # ---------------------------------------------------------- configuration
    def adopted_config(self) -> GroupConfig:
        if self.config is None:
            raise Broken(f"group {self.id}: acts without a configuration")
        return self.config

    def adopt(self, now: float, config: GroupConfig) -> None:
        """R5: a newer configuration is on the disk before anything is done under it."""
        if config.generation < self.identity.promised or config.epoch < self.promised:
            return
        if self.config and config.order <= self.config.order:
            return
        if self.adopting and config.order <= self.adopting.order:
            return
        self.adopting = config
        self.active = None
        promised = max(self.fields.promised, config.epoch)
        self.save(lambda now: self._adopted(now, config), config=config, promised=promised, joint_order=0, joint=None)

    def _adopted(self, now: float, config: GroupConfig) -> None:
        if self.adopting is config:
            self.adopting = None
        self.promised = max(self.promised, config.epoch)
        if self.config and config.order <= self.config.order:
            return
        self.config, self.order, self.joint = config, config.order_token, None
        if self.identity.who:
            self.become(now)

    def become(self, now: float) -> None:
        """Take the part that the configuration gives this who."""
        config, who = self.adopted_config(), self.identity.present()
        self.leave()
        if config.primary == who:
            self.role = self.primary = Primary(now, self)
        elif who in config.in_sync:
            self.role = Secondary(now, self)
        elif who.device in config.members or who.device in config.devices():
            self.role = Learner(self)
        if self.role.name != "learner" and who in config.in_sync and not self.whole:
            raise Broken(f"group {self.id}: in sync without a whole copy")
        self.regard()
        self.role.enter(now)

    def leave(self) -> None:
        """Drop the role and all it knows (R6)."""
        self.role = Role(self)
        self.primary = self.active = self.follows = None
        self.proposal = None

    def regard(self) -> None:
        """Decide whether the primary of the adopted configuration is obeyed: not once something higher is promised."""
        role, config = self.role, self.config
        obeyed = config is not None and config.epoch >= self.promised
        self.follows = role if obeyed and isinstance(role, Follower) and role.joined else None

    def forget(self, now: float) -> None:
        """This disk claims nothing any more (R2): another life of the device is known to the master."""
        self.leave()
        self.config, self.order, self.whole, self.joint = None, -1, False, None
        self.copied = self.copying = 0
        self.save(_nothing, config=None, whole=False, joint_order=0, joint=None)

    @property
    def removed(self) -> bool:
        return self.promised == NEVER

    def remove(self, now: float) -> None:
        """The pool is gone. Its number is never used again, so what late peers tell of it is refused for ever."""
        self.forget(now)
        self.promise(NEVER, _nothing)
        self.restart_log(self.log.last, self.log.last_epoch)
        self.objects.begin_copy(self.id)
        self.objects.end_copy(self.id)

    # ------------------------------------------------------------------ saving
    def save(self, then: Then, **changes: object) -> None:
        """Save the fields with these changes; `then` when they are stable."""
        self.fields = msgspec.structs.replace(self.fields, **changes)
        self.outbox.save(self.id, self.fields, then)

    def promise(self, epoch: int, then: Then) -> None:
        """Obey nothing below `epoch` from now on; `then` when that is stable (R9)."""
        self.promised = max(self.promised, epoch)
        self.regard()
        self.save(then, promised=max(self.fields.promised, epoch))

    # --------------------------------------------------------------------- log
    def append(self, entry: Entry) -> None:
        """Add a record that came from elsewhere at the head of the log."""
        entry.where = -1
        self.log.append(entry)
        self.outbox.journal.append(entry)
        if not self.dirty:
            self.outbox.soil(self)

    def cut(self, n: int) -> None:
        """Void the records from n on (R14). Committed ones never."""
        if n <= self.commit:
            raise Broken(f"group {self.id}: cut at {n}, committed up to {self.commit}")
        self.outbox.cut(self.id, n)
        self.log.cut(n)
        self.synced = min(self.synced, n - 1)
        self.covering = min(self.covering, n - 1)

    def restart_log(self, n: int, epoch: int) -> None:
        """An inventory begins at (n, epoch): nothing held before counts."""
        self.outbox.cut(self.id, 0)
        self.log.reset(n, epoch)
        self.base_n, self.base_epoch = n, epoch
        self.commit = self.synced = n
        self.covering = 0

    def sync_done(self, now: float) -> None:
        """The Sync that covered this group is done."""
        if self.covering:
            self.synced = max(self.synced, self.covering)
            self.covering = 0
        self.role.sync_moved(now)

    def apply_to(self, now: float, n: int) -> None:
        """Apply what is committed up to n, as far as it is in the journal file."""
        log, tables, objects = self.log, self.tables, self.objects
        entries, i = log.entries, self.commit - log.after_n
        while self.commit < n:
            entry = entries[i]
            if entry.where < 0:
                self.outbox.unwritten[self] = None
                return
            i += 1
            self.commit += 1
            tables.apply(now, entry, objects)

    def rebased(self, n: int, epoch: int) -> None:
        """The checkpoint stands at (n, epoch) now; keep a bounded part of the log behind it (R28)."""
        self.base_n, self.base_epoch = n, epoch
        keep = n - self.limits.retain
        needed = self.role.needed()
        if needed is not None and needed < keep:
            keep = max(needed, n - self.limits.retain_learner)
        self.log.trim(min(keep, self.commit))

    def copy_stands(self, attempt: int) -> None:
        """The base of an inventory is on the disk: the copy is whole, unless another inventory has begun since."""
        if self.copying == self.copied == attempt:
            self.save(lambda now: self._now_whole(now, attempt), whole=True)

    def _now_whole(self, now: float, attempt: int) -> None:
        if self.copying == self.copied == attempt:
            self.copying = self.copied = 0
            self.whole = True
            self.role.written(now)
            self.role.sync_moved(now)

    # ---------------------------------------------------------------- the rest
    def tick(self, now: float) -> None:
        again = self.role.tick(now)
        if self.proposal:
            self.proposal.tick(now)
        if again or self.proposal:
            self.outbox.busy[self] = None
        else:
            self.outbox.busy.pop(self, None)

    def propose(
        self, now: float, kind: str, in_sync: tuple[Who, ...], primary: Who | None = None, continuity: int | None = None
    ) -> Proposal:
        """Make this the group's proposal; the caller sends it, at once or when what it depends on is saved."""
        config = self.adopted_config()
        verifier = config.continuity if continuity is None else continuity
        self.proposal = Proposal(now, self, kind, in_sync, primary or config.primary, verifier)
        self.outbox.busy[self] = None
        return self.proposal

    def inform(self, device: DeviceId) -> None:
        """Tell another device the configuration adopted here."""
        if self.config:
            self.outbox.inform(device, self.id, ConfigIs(self.id, self.config))


def _nothing(now: float) -> None:
    """Nothing waits for this save."""
