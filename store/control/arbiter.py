"""What daemons and the master say to each other about identities and configurations (replication rules, section 4)."""

import msgspec

from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig


class Register(msgspec.Struct, frozen=True, tag=True):
    """A claim: this start of the device is `incarnation`; accepted by compare-and-set on the history (R2)."""

    device: DeviceId
    history: tuple[int, ...]  # incarnations this disk has had, without the claimed one
    incarnation: int
    fresh: int | None = None  # the incarnation the master said it knows (0: none): this disk claims nothing


class Registered(msgspec.Struct, frozen=True, tag=True):
    incarnation: int
    accepted: bool
    known: int  # what the master has; 0: it never heard of this device
    generation: int  # recovery generation


class Cas(msgspec.Struct, frozen=True, tag=True):
    """A proposal to change a group's configuration. Kinds: shrink, promote, grow, touch, revive."""

    group: GroupId
    who: Who
    kind: str
    expected: tuple[int, int]
    new: GroupConfig
    history: tuple[int, ...]


class GetConfig(msgspec.Struct, frozen=True, tag=True):
    group: GroupId


class ConfigIs(msgspec.Struct, frozen=True, tag=True):
    group: GroupId
    config: GroupConfig


class ConfigsAre(msgspec.Struct, frozen=True, tag=True):
    """Several configurations at once: an answer to Refresh, a push after a change, one member to another."""

    configs: tuple[ConfigIs, ...]


class Refresh(msgspec.Struct, frozen=True, tag=True):
    """What a device has adopted (group, order token); the master answers with those that differ or are missing (R7)."""

    device: DeviceId
    orders: tuple[tuple[GroupId, int], ...]


class Query(msgspec.Struct, frozen=True, tag=True):
    """A restored master asks every member before it grants anything (R31)."""

    generation: int


class QueryReply(msgspec.Struct, frozen=True, tag=True):
    generation: int
    who: Who
    configs: tuple[ConfigIs, ...]
    history: tuple[int, ...]


ToMaster = Register | Cas | GetConfig | Refresh | QueryReply
FromMaster = Registered | ConfigIs | ConfigsAre | Query
