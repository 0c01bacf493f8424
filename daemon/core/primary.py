"""The primary: orders writes, commits what every needed member has, answers under leases.

Peering is the same role before `active` is set: it serves nobody until the tail that it found at the start of its epoch
is committed on every in-sync member, synced (R20, R21).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.core import feeding, membership
from daemon.core.effects import AckRow, ReplyRow
from daemon.core.peer import Peer
from daemon.core.record import Entry
from daemon.core.role import Role
from daemon.core.tables import size_of, status_of, token_of
from store.errors import Status
from store.ids import DeviceId, Who
from store.wire.header import Flag

if TYPE_CHECKING:
    from daemon.core.group import Group

STATUSES: Final = tuple(Status)
_DURABLE: Final = int(Flag.DURABLE)
assert all(status == i for i, status in enumerate(STATUSES))


class Primary(Role):
    """One epoch (and process) of being primary."""

    __slots__ = (
        "_audience", "_held", "_lessors", "epoch", "fresh", "lease_until", "members_short", "peering", "peers",
        "pending", "required", "since", "start",
    )  # fmt: skip
    name = "primary"

    def __init__(self, now: float, group: Group) -> None:
        super().__init__(group)
        config = group.adopted_config()
        self.epoch = config.epoch
        self.since = now
        self.start = group.log.last
        self.peering = True
        self.fresh = False  # records were appended in this tick
        self.peers: dict[Who, Peer] = {}
        self.pending: dict[tuple[int, int], Entry] = {}  # (session, sequence) of what is not yet committed
        for entry in group.log.between(group.commit + 1, group.log.last):
            self.pending[entry.serial, entry.sequence] = entry
        self.members_short = len(config.in_sync) < group.limits.min_write
        self._held: list[ReplyRow] = []  # committed, waiting for leases
        self.recount()

    def enter(self, now: float) -> None:
        group = self.group
        for who in self.others():
            group.inform(who.device)
        if group.synced < group.log.last:
            group.outbox.sync_wanted = True
        group.outbox.beat_soon[self] = None
        group.outbox.busy[group] = None
        self.advance(now)

    # ------------------------------------------------------- whom it depends on
    def others(self) -> tuple[Who, ...]:
        """Members that count: in sync, and a proposed learner (R22)."""
        group = self.group
        me = group.identity.who
        joint = (group.joint,) if group.joint else ()
        return tuple(who for who in (*group.adopted_config().in_sync, *joint) if who != me)

    def recount(self) -> None:
        """After peers or the joint member changed. `required` is None while a needed member has not answered."""
        self._audience: tuple[DeviceId, ...] | None = None
        self.required = self._known(self.ackers())
        self._lessors = self._known(self.lessors())
        self.recount_leases()

    def ackers(self) -> tuple[Who, ...]:
        """Whose acknowledgements are needed (R15)."""
        return self.others()

    def lessors(self) -> tuple[Who, ...]:
        """Whose leases are needed (R8)."""
        return self.others()

    def _known(self, whos: tuple[Who, ...]) -> list[Peer] | None:
        known = [self.peers[who] for who in whos if who in self.peers]
        return known if len(known) == len(whos) else None

    def recount_leases(self) -> None:
        """R8: all leases hold until the first of them ends."""
        if self._lessors is None:
            self.lease_until = float("-inf")
        else:
            self.lease_until = min([peer.lease for peer in self._lessors], default=float("inf"))

    def audience(self) -> tuple[DeviceId, ...]:
        """Devices that get beats: needed members and joined learners."""
        if self._audience is None:
            whos = (*self.others(), *self.peers)
            self._audience = tuple(dict.fromkeys(who.device for who in whos))
        return self._audience

    # ---------------------------------------------------------------- requests
    def admit(self, now: float, entry: Entry) -> Status | None:
        """Early judgement, then the next position; see DeviceCore.admit."""
        group = self.group
        tables = group.tables
        serial = entry.serial
        sequence = entry.sequence
        session = tables.sessions.get(serial)
        if session is None:
            if serial <= tables.closed:
                return self._refuse(now, Status.NO_SESSION)
            if tables.crowded(now, group.limits.session_idle):
                return Status.BUSY
        elif sequence < session.floor:
            return self._refuse(now, Status.STALE)
        elif sequence in session.answers:
            return self._repeat(now, entry, session.answers[sequence])
        if entry.scope and entry.generation < tables.fences.get(entry.scope, 0):
            return self._refuse(now, Status.FENCED)
        key = (serial, sequence)
        pending = self.pending
        if key in pending:
            pending[key].reply = entry.reply
            return None
        log = group.log
        limits = group.limits
        if sequence >= entry.floor + limits.window or log.last - group.commit >= limits.tail or self.members_short:
            return Status.BUSY
        entry.prev_epoch = log.last_epoch
        entry.epoch = log.last_epoch = self.epoch
        entry.n = log.last = log.last + 1
        entry.where = -1
        log.entries.append(entry)
        pending[key] = entry
        outbox = group.outbox
        outbox.journal.append(entry)
        if not group.dirty:
            outbox.soil(group)
        if entry.flags & _DURABLE:
            outbox.sync_wanted = True
        if not self.fresh:
            self.fresh = True
            outbox.touched.append(self)
        return None

    def _refuse(self, now: float, status: Status) -> Status:
        """A verdict reveals state, so it needs the leases (R11)."""
        return status if now < self.lease_until else Status.BUSY

    def _repeat(self, now: float, entry: Entry, answer: int) -> Status | None:
        """The request was applied before: its stored answer again, with the present verifier."""
        if now >= self.lease_until:
            return Status.BUSY
        config = self.group.adopted_config()
        row = (entry.reply, status_of(answer), size_of(answer), config.continuity, self.group.order, token_of(answer))
        self.group.outbox.replies.append(row)
        return None

    def may_read(self, now: float, scope: int, generation: int) -> Status:
        """R8, for state fetched in the same handling."""
        if now >= self.lease_until:
            return Status.BUSY
        if scope and generation < self.group.tables.fences.get(scope, 0):
            return Status.FENCED
        return Status.OK

    # ------------------------------------------------------------ commit point
    def advance(self, now: float) -> None:
        """R15: n is committed when all needed members have matched it, and synced it if durable or of the old tail."""
        required = self.required
        if required is None:
            return
        group = self.group
        log = group.log
        matched = log.last
        synced = group.synced
        for peer in required:
            matched = min(matched, peer.matched)
            synced = min(synced, peer.synced)
        if matched > group.commit:
            self._commit(now, matched, synced)
        if self.peering and group.commit >= self.start:
            self._activate()

    def _commit(self, now: float, matched: int, synced: int) -> None:
        """Apply in log order and collect the answers."""
        group = self.group
        log, tables, objects, pending = group.log, group.tables, group.objects, self.pending
        start = self.start
        config = group.adopted_config()
        verifier, order = config.continuity, group.order
        rows = group.outbox.replies if self._answers(now) else self._held
        entries, commit = log.entries, group.commit
        i = commit - log.after_n
        while commit < matched:
            entry = entries[i]
            if commit >= synced and (entry.flags & _DURABLE or commit < start):
                break
            if entry.where < 0:
                group.outbox.unwritten[group] = None
                break
            i += 1
            commit += 1
            group.commit = commit
            answer = tables.apply(now, entry, objects)
            pending.pop((entry.serial, entry.sequence), None)
            if entry.reply is not None:
                size = answer >> 8 & 0xFFFFFFFF
                rows.append((entry.reply, STATUSES[answer & 0xFF], size, verifier, order, answer >> 40))
                entry.reply = None
        if len(self._held) > group.limits.replies_held:
            del self._held[: -group.limits.replies_held]

    def _answers(self, now: float) -> bool:
        """The answer to a write may reveal state (fenced, a sum), so it waits for the leases like any other (R11)."""
        return now < self.lease_until

    def _activate(self) -> None:
        """Peering is over."""
        self.peering = False
        if self.group.adopting is None:
            self.group.active = self

    def written(self, now: float) -> None:
        self.advance(now)

    def sync_moved(self, now: float) -> None:
        self.advance(now)

    # ------------------------------------------------------------- the members
    def acked(self, now: float, who: Who, row: AckRow) -> None:
        """An Appended row: what the member has matched and synced."""
        peer = self.peers.get(who)
        if peer is None:
            peer = self._meet(now, who, row)
            if peer is None:
                return
        elif peer.attempt != row[5]:
            return
        matched = row[2]
        if matched > peer.matched:
            peer.matched = matched
            peer.moved_at = now
            peer.backoff = 0.0
            peer.fruitless = 0
            peer.sent_to = max(peer.sent_to, matched)
        peer.synced = max(peer.synced, row[3])
        peer.whole = row[4]
        peer.seen = now
        if peer.sent_to < self.group.log.last and not self.fresh:
            feeding.feed(self, now, peer)
        self.advance(now)

    def _meet(self, now: float, who: Who, row: AckRow) -> Peer | None:
        """The first answer of an in-sync member in this epoch. Its lease should not wait for the next interval."""
        if who not in self.group.adopted_config().in_sync or row[5]:
            return None
        peer = self.peers[who] = Peer(now, who, row[2], row[3], row[4], 0)
        self.recount()
        self.group.outbox.beat_soon[self] = None
        return peer

    def leased(self, now: float, who: Who, sent: float, row: AckRow) -> None:
        """A BeatOk row: the lease runs from the moment at which the beat was sent."""
        peer = self.peers.get(who) or self._meet(now, who, row)
        if peer is not None and peer.attempt == row[5]:
            until = sent + self.group.limits.lease
            if until > peer.lease:
                peer.lease = until
                self.recount_leases()
            if row[2] < peer.matched and sent > peer.moved_at:
                peer.matched = peer.sent_to = row[2]  # its process restarted: it no longer knows what it had matched
                peer.leapt = False
                self.group.outbox.busy[self.group] = None
        self.acked(now, who, row)
        if self._held and now < self.lease_until:
            self.group.outbox.replies += self._held
            self._held = []

    def feed_fresh(self) -> None:
        """The end of a tick with new records: send them to every member that has all older ones under way."""
        self.fresh = False
        if not self.required:
            self.group.outbox.unwritten[self.group] = None  # alone: being in the journal file is all it takes
        feeding.feed_fresh(self)

    def drop(self, who: Who) -> None:
        """A learner that went away or fell too far behind."""
        del self.peers[who]
        self.recount()

    def tick(self, now: float) -> bool:
        return membership.tick(self, now)

    def needed(self) -> int | None:
        return min([peer.matched for peer in self.peers.values()], default=None)

    def state(self, now: float) -> str:
        if self.peering:
            return "peering"
        if now >= self.lease_until or self.members_short:
            return "suspended"
        config = self.group.adopted_config()
        return "active" if len(config.in_sync) >= len(config.members) else "degraded"
