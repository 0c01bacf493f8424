"""Identifiers. Devices, clusters and images are random; groups are numbers the master gives out."""

from typing import NamedTuple, NewType

DeviceId = NewType("DeviceId", bytes)  # 16 random bytes; hex for people
GroupId = NewType("GroupId", int)  # pool number << 16 | index in the pool; unique in the cluster


class Who(NamedTuple):
    """One life of one device's journal (replication rule R1)."""

    device: DeviceId
    incarnation: int  # 64 random bits


class Version(NamedTuple):
    """Position of a write in its group's log; never used twice."""

    epoch: int
    n: int

    def token(self) -> int:
        """The version as the 64-bit number that clients see."""
        return self.epoch << 40 | self.n


def group_id(pool: int, index: int) -> GroupId:
    return GroupId(pool << 16 | index)


def pool_of(group: GroupId) -> int:
    return group >> 16
