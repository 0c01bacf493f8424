"""Known-broken variants: each removes one rule by replacing the method that keeps it.

A checker that never fails proves nothing. For every rule of REPLICATION.md that can be removed by itself there is a
canary here, with the features that the rule is about; `FOUND` (canary_seeds.py) names seeds in which it is caught.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import daemon.core.group as group_module
from daemon.core import membership, recovery
from daemon.core.checkpoints import Checkpoints
from daemon.core.device import DeviceCore
from daemon.core.effects import AckRow, Append, Effect, Feed, Journal
from daemon.core.follower import Secondary
from daemon.core.group import Group
from daemon.core.identity import Identity
from daemon.core.inventory import Inventory
from daemon.core.learner import Learner
from daemon.core.messages import JoinOk
from daemon.core.objects import Objects as StoreSeam
from daemon.core.outbox import Outbox
from daemon.core.primary import Primary
from daemon.core.proposal import GROW
from daemon.core.record import Entry
from daemon.core.revival import Revival
from daemon.core.tables import Session, Tables
from master.core.authority import Authority
from store.control.arbiter import Register
from store.errors import Status
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig
from tests.simulation.clients import Flight, ImageClient, Kept
from tests.simulation.disk import Objects, Rows
from tests.simulation.faults import Faults
from tests.simulation.node import Node

Patch = tuple[Any, str, Any]
_CANARIES: dict[str, tuple[tuple[str, ...], Callable[[], Iterable[Patch]]]] = {}


def canary(*features: str) -> Callable[[Callable[[], Iterable[Patch]]], Callable[[], Iterable[Patch]]]:
    """Register a variant under its function's name, with the features to force."""

    def register(make: Callable[[], Iterable[Patch]]) -> Callable[[], Iterable[Patch]]:
        _CANARIES[make.__name__] = (features, make)
        return make

    return register


def names() -> list[str]:
    return list(_CANARIES)


def features_of(rule: str) -> tuple[str, ...]:
    return _CANARIES[rule][0]


@contextlib.contextmanager
def broken(*rules: str) -> Iterator[None]:
    """The cores without these rules, inside the block."""
    undo: list[Patch] = []
    try:
        for rule in rules:
            for owner, name, replacement in _CANARIES[rule][1]():
                undo.append((owner, name, getattr(owner, name)))
                setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in reversed(undo):
            setattr(owner, name, original)


# ------------------------------------------------------------------- identity
@canary("power")
def new_who() -> Iterable[Patch]:
    """R1: a lossy start keeps its who."""

    def resumes(self: Identity, lossless: bool) -> bool:
        history = self.fields.history
        return bool(history) and history[-1] == self.fields.accepted

    yield Identity, "_resumes", resumes


@canary("old_image", "power")
def history_check() -> Iterable[Patch]:
    """R2: the master accepts any history."""

    def goes_on(self: Authority, m: Register, known: int) -> bool:
        return m.fresh is None or known in (m.fresh, m.incarnation)

    yield Authority, "_goes_on", goes_on


# --------------------------------------------------------------------- leases
@canary("partition")
def read_lease() -> Iterable[Patch]:
    """R8: reads without leases."""

    def may_read(self: Primary, now: float, scope: int, generation: int) -> Status:
        fenced = scope and generation < self.group.tables.fences.get(scope, 0)
        return Status.FENCED if fenced else Status.OK

    yield Primary, "may_read", may_read


@canary("far_master", "partition")
def joint_lease() -> Iterable[Patch]:
    """R22: a proposed learner's lease is not needed."""
    yield Primary, "lessors", _in_sync_only


@canary("partition")
def long_grace() -> Iterable[Patch]:
    """R9: a secondary asks for promotion before the lease it gave has run out."""
    yield Secondary, "_grace", lambda self: 0.3 * self.group.limits.lease


@canary("partition", "slow", "far_master")
def promise() -> Iterable[Patch]:
    """R9: promotion is asked for without a promise on the disk."""
    yield Secondary, "_ask_promotion", lambda self, now: self.promised(now)


@canary("pause")
def boottime() -> Iterable[Patch]:
    """R10: the clock stops while the machine sleeps."""

    def paused(self: Faults, node: Node, span: float) -> None:
        def skip(life: int) -> None:
            node.skipped += span

        self.world.at(node.paused_until, skip, node.life)

    yield Faults, "paused", paused


@canary("partition", "slow")
def ack_lease() -> Iterable[Patch]:
    """R11: answers to writes without leases. Permitted; only together with `cas_before_ack` is it a fault."""
    yield Primary, "_answers", lambda self, now: True


# ------------------------------------------------------------------------ log
@canary("torn_tick")
def write_first() -> Iterable[Patch]:
    """R13: records are sent before they are in the primary's own journal."""
    pack = Outbox.pack

    def hasty(self: Outbox) -> list[Effect]:
        out = pack(self)
        feeds = [effect for effect in out if isinstance(effect, Feed)]
        for journal in [effect for effect in out if isinstance(effect, Journal)]:
            for entry in journal.entries:
                entry.where = max(entry.where, 1 << 40)  # what the simulated link asserts
        return feeds + [effect for effect in out if not isinstance(effect, Feed)]

    yield Outbox, "pack", hasty


class _Boaster(Secondary):
    """Remembers the highest record it has seen."""

    seen = 0

    def take(self, now: float, append: Append) -> None:
        self.seen = append.entries[-1].n
        super().take(now, append)

    def ack_row(self) -> AckRow:
        group, order, matched, synced, whole, attempt = super().ack_row()
        top = max(matched, self.seen)
        return (group, order, top, top if top > matched else synced, whole, attempt)


@canary("loss", "crash")
def match() -> Iterable[Patch]:
    """R14: acknowledges the highest record seen, not the matching prefix."""
    yield group_module, "Secondary", _Boaster


@canary("partition", "slow")
def old_epoch() -> Iterable[Patch]:
    """R14: obeys primaries of epochs below its promise."""
    take, regard = DeviceCore.take, Group.regard

    def obedient(self: DeviceCore, now: float, who: Who, appends: list[Append]) -> None:
        for append in appends:
            group = self.groups.get(append.group)
            if group is not None and append.order < group.order and group.follows is not None:
                group.follows.take(now, append)
            else:
                take(self, now, who, [append])

    def regardless(self: Group) -> None:
        promised, self.promised = self.promised, 0
        regard(self)
        self.promised = promised

    yield DeviceCore, "take", obedient
    yield Group, "regard", regardless


@canary("power", "partition", "replace", "blackout")
def sync_everywhere() -> Iterable[Patch]:
    """R15: durable means synced at the primary only."""
    acked = Primary.acked

    def trusting(self: Primary, now: float, who: Who, row: AckRow) -> None:
        acked(self, now, who, (*row[:3], row[2], *row[4:]))

    yield Primary, "acked", trusting


@canary("power", "blackout")
def sync_cover() -> Iterable[Patch]:
    """R15: a sync counts for records that were written after it had begun."""
    done = Group.sync_done

    def generous(self: Group, now: float) -> None:
        self.covering = self.log.last if self.covering else 0
        done(self, now)

    yield Group, "sync_done", generous


@canary("partition")
def cas_before_ack() -> Iterable[Patch]:
    """R15: a silent member is skipped before the master has removed it."""
    advance = Primary.advance

    def hasty(self: Primary, now: float) -> None:
        everybody = self.required
        whos = self.group.adopted_config().in_sync
        deaf = [who for who in whos if who != self.group.identity.who and membership.is_silent(self, now, who)]
        self.required = [peer for who, peer in self.peers.items() if who in whos and who not in deaf]
        advance(self, now)
        self.required = everybody

    yield Primary, "advance", hasty


@canary("crash", "replace", "blackout")
def restart_sync() -> Iterable[Patch]:
    """R16: after a process crash the journal counts as synced."""
    begin = DeviceCore._begin

    def confident(self: DeviceCore, now: float) -> None:
        if not self._identity._claim:
            for group in self.groups.values():
                group.synced = group.log.last
        begin(self, now)

    yield DeviceCore, "_begin", confident


@canary("partition")
def apply_committed() -> Iterable[Patch]:
    """R17: the base moves to what is synced, committed or not."""
    freeze = Checkpoints._freeze

    def eager(self: Checkpoints, group: Group) -> None:
        if group.follows is not None and group.whole:
            group.apply_to(self._outbox.now, group.synced)
        freeze(self, group)

    yield Checkpoints, "_freeze", eager


# --------------------------------------------------------------------- tables
@canary("takeover")
def fence_check() -> Iterable[Patch]:
    """R18: lock generations are not kept."""
    yield Tables, "_fence", lambda self, scope, generation: int(Status.OK)


@canary("takeover", "dup", "slow")
def check_at_apply() -> Iterable[Patch]:
    """R18: lock, floor and closed mark are judged on arrival only."""

    def apply(self: Tables, now: float, entry: Entry, objects: StoreSeam) -> int:
        session = self.sessions.pop(entry.serial, None) or self._open(now)
        self.sessions[entry.serial] = session
        if entry.floor > session.floor:
            self._raise_floor(session, entry.floor)
        if entry.sequence not in session.answers:
            fences, self.fences = self.fences, {}
            session.answers[entry.sequence] = self._effect(entry, objects)
            self.fences = {**fences, **self.fences}
        return session.answers[entry.sequence]

    yield Tables, "apply", apply


@canary("crash", "partition")
def dedupe_replicated() -> Iterable[Patch]:
    """Duplicate table: the answers live in the primary's memory only."""
    become = Group.become

    def forgetful(self: Group, now: float) -> None:
        for session in self.tables.sessions.values():
            session.answers.clear()
        become(self, now)

    yield Group, "become", forgetful


@canary("dup")
def dedupe_floor() -> Iterable[Patch]:
    """R33: the floor is ignored."""

    def raise_floor(self: Tables, session: Session, floor: int) -> None:
        for sequence in [s for s in session.answers if s < floor]:
            del session.answers[sequence]

    yield Tables, "_raise_floor", raise_floor


@canary("dup", "small_table")
def closed_mark() -> Iterable[Patch]:
    """Duplicate table: an evicted session may open again."""
    yield Tables, "_close", lambda self, serial: None


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
