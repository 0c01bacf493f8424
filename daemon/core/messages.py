"""What devices say to each other about a group, beside records, acknowledgements and beats.

`order` is always a configuration's order token (recovery generation << 32 | epoch). The frequent messages are rows
of tuples in effects (`effects.py`); those here are rare and travel as tagged msgpack.
"""

import msgspec

from store.control.arbiter import ConfigsAre
from store.ids import GroupId, Who


class Join(msgspec.Struct, frozen=True, tag=True):
    """Learner to primary: I hold a checkpoint at (base_n, base_epoch); let me follow (R23)."""

    group: GroupId
    who: Who
    order: int
    base_n: int
    base_epoch: int
    whole: bool
    attempt: int  # orders the joins of one who: nanoseconds of CLOCK_BOOTTIME


class JoinOk(msgspec.Struct, frozen=True, tag=True):
    """Primary to learner: the log comes from base_n + 1 on. Without tables: a delta (R24); else an inventory (R25)."""

    group: GroupId
    order: int
    attempt: int
    base_n: int
    base_epoch: int
    tables: bytes | None


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Learner to primary: the next piece of the inventory behind `cursor`."""

    group: GroupId
    who: Who
    order: int
    attempt: int
    cursor: bytes


class Item(msgspec.Struct, frozen=True, tag=True):
    """Primary to learner: one piece; or the end, with the commit point and the tables there."""

    group: GroupId
    order: int
    attempt: int
    cursor: bytes  # of the Fetch that this answers
    after: bytes  # cursor of the next Fetch
    piece: bytes | None  # None: the inventory ends here
    commit: int
    tables: bytes | None


class ReviveAsk(msgspec.Struct, frozen=True, tag=True):
    """A device that wants to revive a group whose in-sync whos are all gone asks the others (R29)."""

    group: GroupId
    who: Who
    order: int


class ReviveTell(msgspec.Struct, frozen=True, tag=True):
    group: GroupId
    who: Who
    order: int
    lossless: bool  # still the who that the configuration names
    epoch: int  # version of the last record held; -1, -1 when the copy is not whole
    n: int


class ConfigAsk(msgspec.Struct, frozen=True, tag=True):
    """Tell me the configurations of these groups: yours are newer than mine."""

    groups: tuple[GroupId, ...]


PeerMessage = Join | JoinOk | Fetch | Item | ReviveAsk | ReviveTell | ConfigAsk | ConfigsAre
