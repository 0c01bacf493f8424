"""What the groups of a device leave behind during a tick, and how it is packed into effects at the tick's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.core.effects import (
    Acks,
    Append,
    BeatOks,
    BeatRow,
    Beats,
    Cut,
    Effect,
    Feed,
    Journal,
    Replies,
    ReplyRow,
    Save,
    Send,
    Sync,
    Tell,
)
from daemon.core.messages import ConfigAsk, PeerMessage
from daemon.core.record import Entry
from daemon.core.saved import DeviceFields, GroupFields
from store import limits
from store.control.arbiter import ConfigIs, ConfigsAre, ToMaster
from store.ids import DeviceId, GroupId

if TYPE_CHECKING:
    from daemon.core.group import Group
    from daemon.core.primary import Primary

Then = Callable[[float], None]


class Outbox:
    """The collecting side is called by groups, often; `pack` once per tick.

    Order inside a tick: what was cut or saved, then one Journal, then everything that tells somebody of it (R13).
    """

    __slots__ = (
        "_after", "_after_cover", "_asks", "_effects", "_news", "_saves", "_sync_cover", "_thens", "_token", "_waiting",
        "acks", "beat_oks", "beat_soon", "busy", "checkpoint_wanted", "dirty", "feeds", "incarnation", "journal",
        "last_sync", "messages", "now", "replies", "sync_token", "sync_wanted", "touched", "unwritten",
    )  # fmt: skip

    def __init__(self, now: float) -> None:
        self.now = now  # of the last call into the core
        self.incarnation = 0  # of this device; 0 while registering
        self.journal: list[Entry] = []  # appended in this tick, not yet in a Journal effect
        self.touched: list[Primary] = []  # primaries with fresh records
        self.acks: dict[Group, None] = {}  # followers that owe their primary an acknowledgement
        self.beat_oks: list[BeatOks] = []
        self.beat_soon: dict[Primary, None] = {}  # beats that shall not wait for the interval
        self.feeds: dict[DeviceId, list[Append]] = {}
        self.replies: list[ReplyRow] = []
        self.messages: list[ToMaster] = []
        self.busy: dict[Group, None] = {}  # groups with a retry under way: ticked often
        self.unwritten: dict[Group, None] = {}  # groups that wait for their records to be in the journal file
        self.dirty: list[Group] = []  # groups with records that no Sync covers yet
        self.sync_wanted = False
        self.checkpoint_wanted = False
        self.last_sync = now
        self.sync_token = 0  # of the Sync under way; 0 = none
        self._sync_cover: list[Group] = []
        self._after: list[Then] = []  # wait for the next Sync
        self._after_cover: list[Then] = []  # wait for the one under way
        self._effects: list[Effect] = []
        self._saves: dict[int, DeviceFields | GroupFields] = {}
        self._thens: list[Then] = []
        self._news: dict[DeviceId, dict[GroupId, ConfigIs]] = {}
        self._asks: dict[DeviceId, dict[GroupId, None]] = {}
        self._token = 0
        self._waiting: dict[int, list[Then]] = {}

    # ------------------------------------------------------------- collecting
    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def send(self, device: DeviceId, message: PeerMessage) -> None:
        self._effects.append(Send(device, message))

    def tell(self, message: ToMaster) -> None:
        self.messages.append(message)

    def inform(self, device: DeviceId, group: GroupId, config: ConfigIs) -> None:
        """Send a configuration to a device, together with others."""
        self._news.setdefault(device, {})[group] = config

    def ask_config(self, device: DeviceId, group: GroupId) -> None:
        self._asks.setdefault(device, {})[group] = None

    def cut(self, group: GroupId, n: int) -> None:
        """Records collected so far must be in the file before the CUT, later ones after it."""
        if self.journal:
            self._effects.append(Journal(self.journal))
            self.journal = []
        self._effects.append(Cut(group, n))

    def save(self, key: int, fields: DeviceFields | GroupFields, then: Then) -> None:
        """Save with whatever else this tick saves; `then` when it is on the disk."""
        self._saves[key] = fields
        self._thens.append(then)

    def soil(self, group: Group) -> None:
        """The group has a record that no Sync covers yet."""
        if not group.dirty:
            group.dirty = True
            self.dirty.append(group)

    def after_sync(self, then: Then) -> None:
        """Call `then` when everything collected so far is stable."""
        self.sync_wanted = True
        self._after.append(then)

    def token(self, then: Then) -> int:
        self._token += 1
        self._waiting[self._token] = [then]
        return self._token

    def complete(self, now: float, token: int) -> None:
        for then in self._waiting.pop(token):
            then(now)

    # ---------------------------------------------------------------- packing
    def pack(self) -> list[Effect]:
        """All effects of the tick, in the order in which they must be executed."""
        out, self._effects = self._effects, []
        for primary in self.touched:
            primary.feed_fresh()
        self.touched.clear()
        if self.journal:
            out.append(Journal(self.journal))
            self.journal = []
        if self._saves:
            out.append(self._pack_save())
        for device, appends in self.feeds.items():
            out.append(Feed(device, self.incarnation, appends))
        self.feeds = {}
        if self.sync_wanted and not self.sync_token and (self.dirty or self._after):
            out.append(self._pack_sync())
        if self.acks:
            self._pack_acks(out)
        if self.beat_oks:
            out += self.beat_oks
            self.beat_oks = []
        if self.beat_soon:
            self.pack_beats(out, list(self.beat_soon))
            self.beat_soon.clear()
        if self.replies:
            out.append(Replies(self.replies))
            self.replies = []
        if self._news or self._asks or self.messages:
            self._pack_rare(out)
        return out

    def pack_beats(self, out: list[Effect], primaries: list[Primary]) -> None:
        by_device: dict[DeviceId, list[BeatRow]] = {}
        for primary in primaries:
            group = primary.group
            row = (group.id, group.order, group.commit, primary.start)
            for device in primary.audience():
                rows = by_device.get(device)
                if rows is None:
                    rows = by_device[device] = []
                rows.append(row)
        for device, rows in by_device.items():
            out.append(Beats(device, self.incarnation, self.now, rows))

    def _pack_save(self) -> Save:
        self._token += 1
        self._waiting[self._token], self._thens = self._thens, []
        rows, self._saves = list(self._saves.items()), {}
        return Save(self._token, rows)

    def _pack_sync(self) -> Sync:
        """One sync for the device; every dirty group notes up to where it will be stable."""
        cover = self._sync_cover = self.dirty
        self.dirty = []
        for group in cover:
            group.dirty = False
            group.covering = group.log.last
        self._after_cover, self._after = self._after, []
        self.sync_wanted = False
        self.last_sync = self.now
        self.sync_token = self.token(self._synced)
        return Sync(self.sync_token)

    def _synced(self, now: float) -> None:
        cover, self._sync_cover, self.sync_token = self._sync_cover, [], 0
        after, self._after_cover = self._after_cover, []
        for group in cover:
            group.sync_done(now)
        for then in after:
            then(now)

    def _pack_acks(self, out: list[Effect]) -> None:
        by_device: dict[DeviceId, Acks] = {}
        for group in self.acks:
            follower = group.follows
            if follower is None:
                continue
            device = follower.leader.device
            acks = by_device.get(device)
            if acks is None:
                acks = by_device[device] = Acks(device, self.incarnation, [])
                out.append(acks)
            acks.rows.append(follower.ack_row())
        self.acks.clear()

    def _pack_rare(self, out: list[Effect]) -> None:
        most = limits.CONFIGS_PER_MESSAGE
        for device, news in self._news.items():
            configs = list(news.values())
            for i in range(0, len(configs), most):
                out.append(Send(device, ConfigsAre(tuple(configs[i : i + most]))))
        for device, asks in self._asks.items():
            groups = list(asks)
            for i in range(0, len(groups), most):
                out.append(Send(device, ConfigAsk(tuple(groups[i : i + most]))))
        if self.messages:
            out.append(Tell(self.messages))
            self.messages = []
        self._news.clear()
        self._asks.clear()
