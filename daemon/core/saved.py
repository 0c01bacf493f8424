"""What a device keeps on disk for its cores beside the log: small, whole at every save, newest wins."""

from typing import NamedTuple

import msgspec

from daemon.core.record import Entry
from store.ids import Who
from store.placement.config import GroupConfig

DEVICE_KEY = 0  # key of the device's own fields in a Save; group ids are never 0


class DeviceFields(msgspec.Struct, frozen=True, array_like=True):
    """Identity of the device (R1-R4, R31). The disk stores the running boot id beside them whenever it saves them."""

    history: tuple[int, ...] = ()  # incarnations this disk has claimed, oldest first; the last may be an open claim
    accepted: int = 0  # the incarnation the master accepted last; 0 = none yet
    generation: int = 0  # promised recovery generation: nothing of an older one is obeyed


class GroupFields(msgspec.Struct, frozen=True, array_like=True):
    """What a member of a group must have on disk before it acts (R5, R9, R22, R25)."""

    config: GroupConfig | None = None  # the configuration adopted
    promised: int = 0  # epochs below are not obeyed
    joint_order: int = 0  # order token of the configuration in which a growth was proposed; 0 = none
    joint: Who | None = None  # the learner that was proposed
    whole: bool = False  # the base is a complete copy


class Base(NamedTuple):
    """A checkpoint of one group: the state after applying the log up to (n, epoch)."""

    n: int
    epoch: int
    tables: bytes  # the encoded tables at n


class SavedGroup(NamedTuple):
    """All that the disk knows of a group when a process starts.

    `tail` is the contiguous run of records from base.n + 1 on, in log order, each with `where` set. The disk finds it
    as a map n -> record while it scans the journal: a record replaces one of the same n, CUT(n) removes all from n on.
    """

    fields: GroupFields
    base: Base
    tail: list[Entry]
