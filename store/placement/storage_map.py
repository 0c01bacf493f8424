"""The storage map: pools, devices, and for each group its members, primary and order. See PLACEMENT.md.

The master publishes it whole; a map of higher `order` replaces one of lower. Group rows are packed, 12 bytes and two
per member, so that 1,024 groups of three travel in 18 KiB; devices are named in rows by their place in `devices`.
"""

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from store.addresses import Address
from store.ids import DeviceId, GroupId, group_id, pool_of
from store.placement.config import GroupConfig
from store.placement.hashing import group_index

NOBODY: Final = 0xFFFF  # in a row: no device

_HEAD: Final = struct.Struct("<IIHH")  # generation, epoch, index of the primary's device, bit set of in-sync members


class DeviceState(IntEnum):
    """What the operator wants of a device; whether it answers is not in the map."""

    ACTIVE = 0
    DRAINING = 1  # takes no new groups
    LOST = 2  # declared gone for ever


class Device(msgspec.Struct, frozen=True, array_like=True):
    id: DeviceId
    name: str  # for people; unique in the cluster
    host: str  # failure domain: devices of one host fail together
    zone: str  # failure domain above it
    address: Address  # UDP, for clients
    peer: Address  # TCP, for daemons
    capacity: int  # bytes; the weight in placement
    state: DeviceState = DeviceState.ACTIVE


class Route(NamedTuple):
    """One group as the map shows it. A hint for clients: daemons know better and redirect."""

    group: GroupId
    generation: int
    epoch: int
    primary: Device | None
    members: tuple[Device, ...]
    in_sync: tuple[Device, ...]  # those of `members` that hold every acknowledged write

    @property
    def order_token(self) -> int:
        return self.generation << 32 | self.epoch


class Pool(msgspec.Struct, frozen=True, array_like=True):
    """A pool and the packed rows of its groups, in order of their index."""

    number: int  # from 1; never used again
    name: str
    replicas: int
    groups: int
    min_write: int  # in-sync members below which the primary refuses writes
    rows: bytes

    def group_of(self, name: bytes) -> GroupId:
        return group_id(self.number, group_index(self.number, name, self.groups))


class StorageMap(msgspec.Struct, frozen=True, array_like=True):
    version: int  # of this format: 1
    cluster: bytes  # 16 bytes
    generation: int  # recovery generation of the master
    epoch: int  # rises with every change
    key_epoch: int  # tickets of older key epochs should be renewed
    next_pool: int  # a pool with a smaller number that is not in `pools` has been removed
    devices: tuple[Device, ...]
    pools: tuple[Pool, ...]

    @property
    def order(self) -> tuple[int, int]:
        return (self.generation, self.epoch)

    def pool(self, name: str) -> Pool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def pool_numbered(self, number: int) -> Pool | None:
        return next((pool for pool in self.pools if pool.number == number), None)

    def device(self, device: DeviceId) -> Device | None:
        return next((known for known in self.devices if known.id == device), None)

    def route(self, group: GroupId) -> Route | None:
        """None: no such pool or group."""
        pool = self.pool_numbered(pool_of(group))
        index = group & 0xFFFF
        if pool is None or index >= pool.groups:
            return None
        size = row_size(pool.replicas)
        return self._unpack(group, memoryview(pool.rows)[index * size : (index + 1) * size], pool.replicas)

    def _unpack(self, group: GroupId, row: memoryview, replicas: int) -> Route:
        generation, epoch, primary, in_sync = _HEAD.unpack_from(row)
        places = struct.unpack_from(f"<{replicas}H", row, _HEAD.size)
        devices = self.devices
        return Route(
            group,
            generation,
            epoch,
            None if primary == NOBODY else devices[primary],
            tuple(devices[place] for place in places if place != NOBODY),
            tuple(devices[place] for bit, place in enumerate(places) if in_sync >> bit & 1),
        )


def row_size(replicas: int) -> int:
    """Bytes of one group's row."""
    return _HEAD.size + 2 * replicas


def pack_rows(configs: Iterable[GroupConfig], places: Mapping[DeviceId, int], replicas: int) -> bytes:
    """Rows of a pool's groups in order; `places` gives each device's index in the map's `devices`."""
    rows = bytearray()
    for config in configs:
        holding = set(config.devices())
        bits = sum(1 << bit for bit, device in enumerate(config.members) if device in holding)
        members = [places.get(device, NOBODY) for device in config.members]
        members += [NOBODY] * (replicas - len(members))
        rows += _HEAD.pack(config.generation, config.epoch, places.get(config.primary.device, NOBODY), bits)
        rows += struct.pack(f"<{replicas}H", *members)
    return bytes(rows)
