"""All groups of one device behind one face: what the daemon's shell and the simulator drive.

The shell's loop: hand in what arrived (any number of calls), then

    while effects := core.effects():
        for effect in effects: execute it

`effects()` ends the tick: it packs what the calls left (one Journal, one Feed per device, one Sync ...). Calling it
again, until it returns nothing, tells the core that the effects returned before are executed. `now` is CLOCK_BOOTTIME in
seconds everywhere. Incarnations and Whos are those that the sender put into the frame; a link is authenticated by device.
"""

from collections.abc import Callable, Mapping, Sequence

from daemon.core.effects import AckRow, Append, BeatRow, Effect
from daemon.core.limits import Limits
from daemon.core.messages import PeerMessage
from daemon.core.objects import Objects
from daemon.core.record import Entry
from daemon.core.saved import DeviceFields, SavedGroup
from store.control.arbiter import FromMaster
from store.errors import Status
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig


class DeviceCore:
    """Identity, configurations, logs, leases and recovery of every group on this device (REPLICATION.md)."""

    who: Who | None  # None until the master accepted this start (R4: at once after a lossless one)

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
        raise NotImplementedError

    # Hot: clients
    def admit(self, now: float, entry: Entry) -> Status | None:
        """Order a client's mutation: its op ... payload_sum, where = -1, body, reply are set.

        None: taken (epoch, n, prev_epoch are set; it will be in the next Journal) or its answer comes with Replies
        (stored answer; or the same request is in flight, then the `reply` given last is the one answered and this
        entry is dropped). A Status: answer it now. BUSY says nothing about an earlier copy of the same request.
        """
        raise NotImplementedError

    def may_read(self, now: float, group: GroupId, scope: int, generation: int) -> Status:
        """R8. OK, and the state fetched in this very handling may be answered. Else REDIRECT, BUSY, FENCED."""
        raise NotImplementedError

    def read_ticket(self, group: GroupId) -> int:
        """Taken before a slow fetch begins: the order under which it began."""
        raise NotImplementedError

    def may_answer(self, now: float, group: GroupId, scope: int, generation: int, ticket: int) -> Status:
        """As may_read, after a slow fetch: also REDIRECT when the configuration is another one than at the ticket."""
        raise NotImplementedError

    # Hot: peers
    def take(self, now: float, who: Who, appends: Sequence[Append]) -> None:
        """A frame of record runs from another device."""
        raise NotImplementedError

    def appended(self, now: float, who: Who, rows: Sequence[AckRow]) -> None:
        raise NotImplementedError

    def beats(self, now: float, who: Who, sent: float, rows: Sequence[BeatRow]) -> None:
        raise NotImplementedError

    def beat_oks(self, now: float, who: Who, sent: float, rows: Sequence[AckRow]) -> None:
        raise NotImplementedError

    # Rare
    def receive(self, now: float, device: DeviceId, message: PeerMessage) -> None:
        raise NotImplementedError

    def receive_master(self, now: float, message: FromMaster) -> None:
        raise NotImplementedError

    def link_lost(self, now: float, device: DeviceId) -> None:
        """The connection to a device broke: what was under way on it is sent again."""
        raise NotImplementedError

    def complete(self, now: float, token: int) -> None:
        """A Sync, Save or Checkpoint is done."""
        raise NotImplementedError

    def checkpoint(self, now: float) -> None:
        """The disk wants a checkpoint. Ignored while one is under way; nothing may be emitted if nothing moved."""
        raise NotImplementedError

    def carry(self, now: float, before: int) -> None:
        """The disk wants to trim the journal up to offset `before`: records of uncheckpointed tails there are written
        again (Journal, Sync), then Release(before) follows."""
        raise NotImplementedError

    def trimmed(self, now: float, before: int) -> None:
        """The journal was trimmed: records before this offset cannot be loaded for a resend any more."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        raise NotImplementedError

    def deadline(self) -> float:
        """When `tick` is due, in CLOCK_BOOTTIME seconds."""
        raise NotImplementedError

    def effects(self) -> list[Effect]:
        """End the tick; see the module."""
        raise NotImplementedError

    # For status and routing
    def config(self, group: GroupId) -> GroupConfig | None:
        """The adopted configuration: its primary and order go into redirects."""
        raise NotImplementedError

    def state(self, group: GroupId) -> str:
        """One word of REPLICATION.md's states, for `store status` and metrics."""
        raise NotImplementedError
