"""All groups of one device behind one face: what the daemon's shell and the simulator drive.

The shell's loop: hand in what arrived (any number of calls), then

    while effects := core.effects():
        for effect in effects: execute it

`effects()` ends the tick: it packs what the calls left (one Journal, one Feed per device, one Sync ...). Calling it
again, until it returns nothing, tells the core that the effects returned before are executed. `now` is CLOCK_BOOTTIME
in seconds everywhere. Incarnations and Whos are those that the sender put into the frame; a link is authenticated by
device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from daemon.core import recovery, revival
from daemon.core.checkpoints import Checkpoints
from daemon.core.effects import AckRow, Append, BeatOks, BeatRow, Effect
from daemon.core.group import Group
from daemon.core.identity import Identity
from daemon.core.learner import Learner
from daemon.core.limits import Limits
from daemon.core.messages import ConfigAsk, Fetch, Item, Join, JoinOk, PeerMessage, ReviveAsk, ReviveTell
from daemon.core.objects import Objects
from daemon.core.outbox import Outbox
from daemon.core.record import Entry
from daemon.core.saved import Base, DeviceFields, GroupFields, SavedGroup
from store.control.arbiter import ConfigIs, ConfigsAre, FromMaster, Query, QueryReply, Refresh, Registered
from store.errors import Status
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig

SCANS_PER_BEAT: Final = 3  # how often all groups are looked at: silence is noticed within a third of a beat
UNKNOWN: Final = -1  # a read ticket that never counts


class DeviceCore:
    """Identity, configurations, logs, leases and recovery of every group on this device (REPLICATION.md)."""

    __slots__ = (
        "_checkpoints", "_identity", "_limits", "_next_beat", "_next_retry", "_next_scan", "_objects", "_outbox",
        "_refreshed_at", "groups",
    )  # fmt: skip

    def __init__(
        self,
        now: float,
        device: DeviceId,
        fields: DeviceFields,
        groups: Mapping[GroupId, SavedGroup],
        *,
        lossless: bool,
        draw: Callable[[], int],
        objects: Objects,
        limits: Limits,
    ) -> None:
        """`lossless`: the disk's proof of R3. `draw` returns 64 random bits, never 0: a new incarnation."""
        self._outbox = Outbox(now)
        self._limits = limits
        self._objects = objects
        self._identity = Identity(device, fields, self._outbox, limits, draw)
        self._identity.accepted = self._accepted
        self._identity.refused = self._refused
        self.groups: dict[int, Group] = {}
        self._checkpoints = Checkpoints(self.groups, objects, self._outbox)
        self._next_beat = self._next_scan = self._next_retry = now
        self._refreshed_at = now
        for group, saved in groups.items():
            self.groups[group] = Group(now, group, saved, self._identity, objects, limits)
        self._identity.start(lossless)
        if self._identity.who:
            self._begin(now)

    @property
    def who(self) -> Who | None:
        """This life of the device; None until the master accepted it (R4: at once after a lossless start)."""
        return self._identity.who

    # ------------------------------------------------------------ hot: clients
    def admit(self, now: float, entry: Entry) -> Status | None:
        """Order a client's mutation: its op ... payload_sum, where = -1, body, reply are set.

        None: taken (epoch, n, prev_epoch are set; it will be in the next Journal) or its answer comes with Replies
        (stored answer; or the same request is in flight, then the `reply` given last is the one answered and this
        entry is dropped). A Status: answer it now. BUSY says nothing about an earlier copy of the same request.
        """
        group = self.groups.get(entry.group)
        if group is None:
            return Status.UNKNOWN_GROUP
        if group.active is None:
            return Status.REDIRECT
        self._outbox.now = now
        status: Status | None = group.active.admit(now, entry)
        return status

    def may_read(self, now: float, group: GroupId, scope: int, generation: int) -> Status:
        """R8. OK, and the state fetched in this very handling may be answered. Else REDIRECT, BUSY, FENCED."""
        held = self.groups.get(group)
        if held is None:
            return Status.UNKNOWN_GROUP
        if held.active is None:
            return Status.REDIRECT
        return held.active.may_read(now, scope, generation)

    def read_ticket(self, group: GroupId) -> int:
        """Taken before a slow fetch begins: the order under which it began."""
        held = self.groups.get(group)
        return held.order if held and held.active else UNKNOWN

    def may_answer(self, now: float, group: GroupId, scope: int, generation: int, ticket: int) -> Status:
        """As may_read, after a slow fetch: also REDIRECT when the configuration is another one than at the ticket."""
        if self.read_ticket(group) != ticket or ticket == UNKNOWN:
            return Status.REDIRECT
        return self.may_read(now, group, scope, generation)

    # -------------------------------------------------------------- hot: peers
    def take(self, now: float, who: Who, appends: Sequence[Append]) -> None:
        """A frame of record runs from another device. The entries become this core's: nobody else may hold them."""
        self._outbox.now = now
        groups = self.groups
        for append in appends:
            group = groups.get(append.group)
            if group is None or append.order != group.order:
                self._other_order(who, group, append.group, append.order)
            elif group.follows is not None and group.follows.leader == who:
                group.follows.take(now, append)

    def appended(self, now: float, who: Who, rows: Sequence[AckRow]) -> None:
        """Acknowledgements of runs."""
        self._outbox.now = now
        groups = self.groups
        for row in rows:
            group = groups.get(row[0])
            if group is not None and group.primary is not None and row[1] == group.order:
                group.primary.acked(now, who, row)

    def beats(self, now: float, who: Who, sent: float, rows: Sequence[BeatRow]) -> None:
        """A beat of another device for the groups that it leads: each row answered is a lease granted."""
        self._outbox.now = now
        groups = self.groups
        oks: list[AckRow] = []
        for group_id, order, commit, start in rows:
            group = groups.get(group_id)
            if group is None or order != group.order:
                self._other_order(who, group, group_id, order)
            elif group.follows is not None and group.follows.leader == who:
                oks.append(group.follows.grant(now, commit, start))
        if oks:
            self._outbox.beat_oks.append(BeatOks(who.device, self._outbox.incarnation, sent, oks))

    def beat_oks(self, now: float, who: Who, sent: float, rows: Sequence[AckRow]) -> None:
        """Leases granted to this device; `sent` is its own clock, echoed."""
        self._outbox.now = now
        groups = self.groups
        for row in rows:
            group = groups.get(row[0])
            if group is not None and group.primary is not None and row[1] == group.order:
                group.primary.leased(now, who, sent, row)

    def _other_order(self, who: Who, group: Group | None, group_id: int, order: int) -> None:
        """A primary of another configuration speaks: one of the two has to learn."""
        if self._identity.who is None:
            return
        if group is None or order > group.order:
            self._outbox.ask_config(who.device, GroupId(group_id))
        else:
            group.inform(who.device)

    # -------------------------------------------------------------------- rare
    def receive(self, now: float, device: DeviceId, message: PeerMessage) -> None:
        """A rare message from another device. While registering nothing is answered."""
        self._outbox.now = now
        if self._identity.who is None:
            return
        match message:
            case ConfigsAre():
                for told in message.configs:
                    self._adopt(now, told)
            case ConfigAsk():
                for asked in message.groups:
                    if asked in self.groups:
                        self.groups[asked].inform(device)
            case _:
                group = self.groups.get(message.group)
                if group is not None:
                    _receive(now, group, message)

    def receive_master(self, now: float, message: FromMaster) -> None:
        """A message from the master."""
        self._outbox.now = now
        if isinstance(message, Registered):
            self._identity.registered(now, message, self._in_sync())
        elif self._identity.who is None:
            return
        elif isinstance(message, ConfigIs):
            self._adopt(now, message)
        elif isinstance(message, ConfigsAre):
            for told in message.configs:
                self._adopt(now, told)
        else:
            self._query(message)

    def _query(self, m: Query) -> None:
        """A restored master asks; the answer tells what this device holds once the promise is stable (R31)."""
        if m.generation >= self._identity.promised:
            self._identity.promise(m.generation, lambda now: self._tell_all(m.generation))

    def _tell_all(self, generation: int) -> None:
        if self._identity.who is None:
            return
        configs = tuple(ConfigIs(g.id, g.fields.config) for g in self.groups.values() if g.fields.config)
        self._outbox.tell(QueryReply(generation, self._identity.who, configs, self._identity.fields.history))

    def _adopt(self, now: float, told: ConfigIs) -> None:
        group = self.groups.get(told.group)
        if group is None:
            group = self.groups[told.group] = self._new_group(now, told)
        group.adopt(now, told.config)

    def _new_group(self, now: float, told: ConfigIs) -> Group:
        """A who that never heard of a group and is in sync in it was so from the group's creation: nothing can have
        been acknowledged without it, so its empty copy is whole."""
        fields = GroupFields(whole=self._identity.who in told.config.in_sync)
        saved = SavedGroup(fields, Base(0, 0, b""), [])
        return Group(now, told.group, saved, self._identity, self._objects, self._limits)

    def _in_sync(self) -> bool:
        who = self._identity.who
        return who is not None and any(g.config and who in g.config.in_sync for g in self.groups.values())

    def _accepted(self, now: float) -> None:
        self._begin(now)
        self._refresh(now)

    def _begin(self, now: float) -> None:
        for group in self.groups.values():
            if group.config:
                group.become(now)

    def _refused(self, now: float) -> None:
        for group in self.groups.values():
            group.forget(now)

    def remove(self, now: float, group: GroupId) -> bool:
        """The group's pool was removed: its objects go, and no configuration of it is ever adopted again.

        False: a checkpoint holds the group; ask again when that has ended.
        """
        self._outbox.now = now
        held = self.groups.get(group)
        if held is None or held.removed:
            return True
        if held.frozen:
            return False
        held.remove(now)
        self._checkpoints.void()
        return True

    def link_lost(self, now: float, device: DeviceId) -> None:
        """The connection to a device broke: what was under way on it is sent again."""
        self._outbox.now = now
        for group in self.groups.values():
            if group.primary:
                for peer in group.primary.peers.values():
                    if peer.who.device == device:
                        peer.sent_to = peer.matched
                        self._outbox.busy[group] = None

    def complete(self, now: float, token: int) -> None:
        """A Sync, Save or Checkpoint is done."""
        self._outbox.now = now
        self._outbox.complete(now, token)

    def checkpoint(self, now: float) -> None:
        """The disk wants a checkpoint. Ignored while one is under way; nothing may be emitted if nothing moved."""
        self._outbox.now = now
        self._checkpoints.begin(now)

    def carry(self, now: float, before: int) -> None:
        """The disk wants to trim the journal up to offset `before`: records of uncheckpointed tails there are written
        again (Journal, Sync), then Release(before) follows. A record written again may have been applied already: what
        the store keeps of its place moves with it."""
        self._outbox.now = now
        self._checkpoints.carry(before)

    def trimmed(self, now: float, before: int) -> None:
        """The journal was trimmed: records before this offset cannot be loaded for a resend any more."""
        self._outbox.now = now
        self._checkpoints.trimmed(before)

    # -------------------------------------------------------------------- time
    def tick(self, now: float) -> None:
        """Look at every group now and then, at those with a retry under way more often."""
        outbox = self._outbox
        outbox.now = now
        self._identity.tick(now)
        if now >= self._next_scan:
            self._next_scan = now + self._limits.beat / SCANS_PER_BEAT
            self._scan(now)
        elif now >= self._next_retry:
            for group in list(outbox.busy):
                group.tick(now)
        if now >= self._next_retry:
            self._next_retry = now + self._limits.resend / 2

    def _scan(self, now: float) -> None:
        outbox, limits = self._outbox, self._limits
        beats = now >= self._next_beat
        for group in list(self.groups.values()):
            group.tick(now)
            if beats and group.primary:
                outbox.beat_soon[group.primary] = None
        if beats:
            self._next_beat = now + limits.beat
        if outbox.dirty and now - outbox.last_sync > limits.background_sync:
            outbox.sync_wanted = True
        if now - self._refreshed_at > limits.refresh and self._identity.who:
            self._refresh(now)

    def _refresh(self, now: float) -> None:
        """R7: ask the master for news. R32: a restored master may have forgotten this incarnation."""
        self._refreshed_at = now
        orders = tuple((group.id, group.order) for group in self.groups.values() if group.config)
        self._outbox.tell(Refresh(self._identity.device, orders))
        newest = max((group.config.generation for group in self.groups.values() if group.config), default=0)
        if newest > self._identity.generation:
            self._identity.register(now)

    def deadline(self) -> float:
        """When `tick` is due, in CLOCK_BOOTTIME seconds."""
        if self._outbox.busy or self._identity.who is None:
            return min(self._next_scan, self._next_retry)
        return self._next_scan

    def effects(self) -> list[Effect]:
        """End the tick; see the module."""
        outbox = self._outbox
        if outbox.unwritten:
            groups, outbox.unwritten = outbox.unwritten, {}
            for group in groups:
                group.role.written(outbox.now)
        if outbox.checkpoint_wanted:
            self._checkpoints.begin(outbox.now)
        return outbox.pack()

    # ------------------------------------------------- for status and redirects
    def config(self, group: GroupId) -> GroupConfig | None:
        """The adopted configuration: its primary and order go into redirects."""
        held = self.groups.get(group)
        return held.config if held else None

    def state(self, group: GroupId) -> str:
        """One word of REPLICATION.md's states, for `store status` and metrics."""
        if self._identity.who is None:
            return "registering"
        held = self.groups.get(group)
        return held.role.state(self._outbox.now) if held else "unknown"


def _receive(now: float, group: Group, m: Join | JoinOk | Fetch | Item | ReviveAsk | ReviveTell) -> None:
    """Hand a message about one group to the role that it is for; others have no use for it."""
    role = group.role
    match m:
        case ReviveAsk():
            revival.answer(group, m)
        case Join():
            if group.primary:
                recovery.on_join(group.primary, now, m)
            else:
                group.inform(m.who.device)
        case Fetch():
            if group.primary:
                recovery.on_fetch(group.primary, now, m)
        case JoinOk() if isinstance(role, Learner):
            role.on_join_ok(now, m)
        case Item() if isinstance(role, Learner):
            role.on_item(now, m)
        case ReviveTell() if isinstance(role, Learner):
            role.on_revive_tell(now, m)
