"""Canaries of identity, leases, the log and the tables."""

from __future__ import annotations

from collections.abc import Iterable

import daemon.core.group as group_module
from daemon.core import membership
from daemon.core.checkpoints import Checkpoints
from daemon.core.device import DeviceCore
from daemon.core.effects import AckRow, Append, Effect, Feed, Journal
from daemon.core.follower import Secondary
from daemon.core.group import Group
from daemon.core.identity import Identity
from daemon.core.objects import Objects as StoreSeam
from daemon.core.outbox import Outbox
from daemon.core.primary import Primary
from daemon.core.record import Entry
from daemon.core.tables import Session, Tables
from master.core.authority import Authority
from store.control.arbiter import Register
from store.errors import Status
from store.ids import Who
from tests.simulation.canary import Patch, canary
from tests.simulation.faults import Faults
from tests.simulation.node import Node


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
