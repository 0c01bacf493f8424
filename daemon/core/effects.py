"""What a DeviceCore wants done. The shell executes the effects of one `effects()` call strictly in order.

An effect is done "at once" when its call returns (a write() into the journal file, a send handed to a link) or later,
when the shell calls `complete(now, token)`. Lists inside effects belong to the shell from then on.
"""

from typing import Any, Final

from daemon.core.messages import PeerMessage
from daemon.core.record import Entry
from daemon.core.saved import Base, DeviceFields, GroupFields
from store.control.arbiter import ToMaster
from store.errors import Status
from store.ids import DeviceId, GroupId

# Rows of the frequent messages. `order` is an order token; whole and attempt speak of a learner's copy and its join.
AckRow = tuple[int, int, int, int, bool, int]  # group, order, matched, synced, whole, attempt
BeatRow = tuple[int, int, int, int]  # group, order, commit, start of the epoch
# what the entry had as `reply`, status, size of the object, verifier, order token, version token
ReplyRow = tuple[Any, Status, int, int, int, int]


class Append:
    """A run of records of one group, from its primary to one member. `entries` is never empty.

    The record before the first is (entries[0].n - 1, entries[0].prev_epoch): R14 compares it.
    """

    __slots__ = ("commit", "entries", "group", "order", "start")

    def __init__(self, group: int, order: int, commit: int, start: int, entries: list[Entry]) -> None:
        self.group: Final = group
        self.order: Final = order
        self.commit: Final = commit
        self.start: Final = start  # last position of the primary's log when the epoch began
        self.entries: Final = entries


class Journal:
    """write() the records now, in this order, and set each `where`: before any later effect (R13)."""

    __slots__ = ("entries",)

    def __init__(self, entries: list[Entry]) -> None:
        self.entries: Final = entries


class Cut:
    """The group's records from position `n` on are void: write a CUT record now."""

    __slots__ = ("group", "n")

    def __init__(self, group: GroupId, n: int) -> None:
        self.group: Final = group
        self.n: Final = n


class Sync:
    """Make everything written to the journal so far stable, then complete(token). At most one is outstanding."""

    __slots__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token: Final = token


class Save:
    """Write META records for all rows and sync them, then complete(token). Saves reach the disk in order.

    Each row is (DEVICE_KEY, DeviceFields) or (group id, GroupFields), whole: the newest replaces the older.
    """

    __slots__ = ("rows", "token")

    def __init__(self, token: int, rows: list[tuple[int, DeviceFields | GroupFields]]) -> None:
        self.token: Final = token
        self.rows: Final = rows


class Checkpoint:
    """Make the frozen state (`Objects.freeze`) the base of these groups, atomically, then complete(token).

    Everything up to the bases is already synced in the journal. Groups not named keep their base.
    """

    __slots__ = ("bases", "token")

    def __init__(self, token: int, bases: dict[GroupId, Base]) -> None:
        self.token: Final = token
        self.bases: Final = bases


class Release:
    """The core needs no record before journal offset `before`: carried ones are synced in their new place."""

    __slots__ = ("before",)

    def __init__(self, before: int) -> None:
        self.before: Final = before


class Feed:
    """Send runs of records to a device. A payload that is no longer in memory is loaded from the journal."""

    __slots__ = ("appends", "device", "incarnation")

    def __init__(self, device: DeviceId, incarnation: int, appends: list[Append]) -> None:
        self.device: Final = device
        self.incarnation: Final = incarnation  # of the sender, like in the three below
        self.appends: Final = appends


class Acks:
    """Tell a primary what this device has matched and synced."""

    __slots__ = ("device", "incarnation", "rows")

    def __init__(self, device: DeviceId, incarnation: int, rows: list[AckRow]) -> None:
        self.device: Final = device
        self.incarnation: Final = incarnation
        self.rows: Final = rows


class Beats:
    """One beat for all groups led by this device that the other is a member of; on the priority connection."""

    __slots__ = ("device", "incarnation", "rows", "sent")

    def __init__(self, device: DeviceId, incarnation: int, sent: float, rows: list[BeatRow]) -> None:
        self.device: Final = device
        self.incarnation: Final = incarnation
        self.sent: Final = sent  # the sender's clock: the leases run from here
        self.rows: Final = rows


class BeatOks:
    """The answer to a beat: a lease for each group named; on the priority connection."""

    __slots__ = ("device", "incarnation", "rows", "sent")

    def __init__(self, device: DeviceId, incarnation: int, sent: float, rows: list[AckRow]) -> None:
        self.device: Final = device
        self.incarnation: Final = incarnation
        self.sent: Final = sent  # echo of the beat
        self.rows: Final = rows


class Send:
    """Send a rare message to a device."""

    __slots__ = ("device", "message")

    def __init__(self, device: DeviceId, message: PeerMessage) -> None:
        self.device: Final = device
        self.message: Final = message


class Tell:
    """Send messages to the master. They may be lost; the core repeats what matters."""

    __slots__ = ("messages",)

    def __init__(self, messages: list[ToMaster]) -> None:
        self.messages: Final = messages


class Replies:
    """Answer clients: their records are committed, or a stored answer is repeated."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[ReplyRow]) -> None:
        self.rows: Final = rows


Effect = Journal | Cut | Sync | Save | Checkpoint | Release | Feed | Acks | Beats | BeatOks | Send | Tell | Replies
