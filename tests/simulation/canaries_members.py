"""Canaries of peering, growth, recovery, revival, the master and the clients."""

from __future__ import annotations

from collections.abc import Iterable

from daemon.core import membership, recovery
from daemon.core.effects import AckRow
from daemon.core.group import Group
from daemon.core.inventory import Inventory
from daemon.core.learner import Learner
from daemon.core.messages import JoinOk
from daemon.core.primary import Primary
from daemon.core.proposal import GROW
from daemon.core.revival import Revival
from master.core.authority import Authority
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig
from tests.simulation.canary import Patch, canary
from tests.simulation.clients import Flight, ImageClient, Kept
from tests.simulation.disk import Objects, Rows


# -------------------------------------------------------------------- peering
@canary("crash", "partition")
def peer_first() -> Iterable[Patch]:
    """R20: serves before peering is done."""
    enter = Primary.enter

    def impatient(self: Primary, now: float) -> None:
        enter(self, now)
        self._activate()

    yield Primary, "enter", impatient


@canary("crash", "partition")
def roll_forward() -> Iterable[Patch]:
    """R20: a new primary drops its tail."""
    become = Group.become

    def dropping(self: Group, now: float) -> None:
        if self.adopted_config().primary == self.identity.who and self.log.last > self.commit:
            self.cut(self.commit + 1)
        become(self, now)

    yield Group, "become", dropping


# --------------------------------------------------------------------- growth
def _in_sync_only(self: Primary) -> tuple[Who, ...]:
    return tuple(who for who in self.group.adopted_config().in_sync if who != self.group.identity.who)


@canary("far_master", "partition")
def joint_lease() -> Iterable[Patch]:
    """R22: a proposed learner's lease is not needed."""
    yield Primary, "lessors", _in_sync_only


@canary("far_master", "crash", "power")
def joint_ack() -> Iterable[Patch]:
    """R22: a proposed learner's acknowledgement is not needed."""
    yield Primary, "ackers", _in_sync_only


@canary("far_master", "crash", "power")
def joint_saved() -> Iterable[Patch]:
    """R21, R22: a restart forgets the proposal."""

    def propose(primary: Primary, now: float, who: Who) -> None:
        group = primary.group
        group.joint = who
        primary.recount()
        group.propose(now, GROW, (*group.adopted_config().in_sync, who)).send(now)

    yield membership, "_propose_growth", propose


@canary("partition", "slow", "dup")
def join_attempt() -> Iterable[Patch]:
    """R23: acknowledgements of an older join count."""
    acked = Primary.acked

    def lax(self: Primary, now: float, who: Who, row: AckRow) -> None:
        peer = self.peers.get(who)
        acked(self, now, who, (*row[:5], peer.attempt) if peer else row)

    yield Primary, "acked", lax


@canary("power", "replace", "small_log", "far_master")
def join_named() -> Iterable[Patch]:
    """R23: a device is taken in as learner while a former life of it still counts as in sync."""
    yield recovery, "waits", lambda former: False


# ------------------------------------------------------------------- recovery
@canary("partition", "power")
def mid_delta_base() -> Iterable[Patch]:
    """R24: a delta begins at the applied state, not at the base."""
    yield Learner, "_rewind", lambda self, now: True


@canary("small_log", "power", "crash", "partition")
def whole_flag() -> Iterable[Patch]:
    """R25a: an unfinished inventory is not marked on the disk."""

    def begin(self: Learner, m: JoinOk) -> None:
        group = self.group
        group.copying, group.copied = m.attempt, 0
        group.save(lambda now: copy(self, now, m))

    def copy(self: Learner, now: float, m: JoinOk) -> None:
        self._copy(now, m)
        self.group.whole = True

    yield Learner, "_begin_inventory", begin


@canary("small_log", "partition", "dup")
def inventory_meta() -> Iterable[Patch]:
    """R25b: an inventory begins without tables."""
    yield recovery, "first_tables", lambda primary: b""


@canary("small_log", "partition", "slow")
def inventory_defer() -> Iterable[Patch]:
    """R25c: records are applied while objects are being copied."""
    moved = Inventory.moved

    def eager(self: Inventory, now: float) -> None:
        if self._copied_at < 0:
            learner = self._learner
            learner.group.apply_to(now, min(learner.told, learner.matched))
        else:
            moved(self, now)

    yield Inventory, "moved", eager


@canary("small_log", "partition", "slow")
def inventory_end() -> Iterable[Patch]:
    """R25e: the tables do not come again with the last object."""
    yield Inventory, "_install_tables", lambda self, now: None


@canary("small_log", "power", "partition")
def inventory_exact() -> Iterable[Patch]:
    """R26: an inventory keeps what is newer or extra."""
    install = Objects.install

    def begin_copy(self: Objects, group: GroupId) -> None:
        self.applied.setdefault(group, {})
        self._disk.objects.setdefault(group, {})

    def keep_newer(self: Objects, group: GroupId, piece: bytes) -> None:
        before: Rows = dict(self.applied[group])
        install(self, group, piece)
        for key, held in before.items():
            if held[1:] > self.applied[group][key][1:]:
                self.applied[group][key] = held

    yield Objects, "begin_copy", begin_copy
    yield Objects, "install", keep_newer


# -------------------------------------------------------------------- revival
@canary("old_image", "blackout")
def revive_best() -> Iterable[Patch]:
    """R29: the first lossy device revives."""
    yield Revival, "_best", lambda self, others: True


@canary("blackout")
def bump_continuity() -> Iterable[Patch]:
    """R29: a revival keeps the verifier."""

    def same(self: Authority, new: GroupConfig, old: GroupConfig) -> bool:
        return True

    yield Revival, "_continuity", lambda self: self._learner.group.adopted_config().continuity
    yield Authority, "_other_verifier", same


# --------------------------------------------------------------------- master
@canary("restore", "partition")
def master_closure() -> Iterable[Patch]:
    """R31: a restored master decides at once."""

    def nothing(self: Authority) -> dict[GroupId, None]:
        return {}

    yield Authority, "_to_close", nothing


@canary("restore", "old_image")
def closure_members() -> Iterable[Patch]:
    """R31: closure asks in-sync devices only."""

    def in_sync_only(self: Authority, group: GroupId) -> tuple[DeviceId, ...]:
        return self.configs[group].devices()

    yield Authority, "_must_answer", in_sync_only


# -------------------------------------------------------------------- clients
@canary("blackout")
def overlay() -> Iterable[Patch]:
    """R34: an image client does not read its own kept writes."""
    yield ImageClient, "reads_own", lambda self, block: False


@canary("blackout")
def compare_verifier() -> Iterable[Patch]:
    """R35: a flush ignores the verifier."""

    def none(self: ImageClient, flight: Flight, verifier: int) -> list[Kept]:
        return []

    yield ImageClient, "lost", none
