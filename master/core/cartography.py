"""Draws the storage map from devices, pools and configurations, and numbers it. Pure.

A failover of one device changes hundreds of configurations: only their rows are drawn anew, and the epoch rises once
per map that is asked for.
"""

from collections.abc import Iterable, Mapping, Sequence

from master.core.devices import DeviceRecord
from master.core.pools import PoolRecord
from master.core.table import Cell, Changes
from store.ids import DeviceId, GroupId, group_id, pool_of
from store.placement.config import GroupConfig
from store.placement.storage_map import Pool, StorageMap, pack_rows, row_size

MAP_VERSION = 1


class Cartography:
    def __init__(self, changes: Changes, cluster: bytes, generation: int) -> None:
        self._cluster, self._generation = cluster, generation
        self.epoch = Cell(changes, "map_epoch", 0)
        self._rows: dict[int, bytearray] = {}
        self._places: dict[DeviceId, int] = {}
        self._devices: tuple[DeviceRecord, ...] = ()
        self._dirty: dict[GroupId, None] = {}
        self._map: StorageMap | None = None
        self._outdated = True

    @property
    def outdated(self) -> bool:
        """Something has changed since `draw`."""
        return self._outdated

    def touch(self, groups: Iterable[GroupId] = ()) -> None:
        """These groups' configurations have changed, or anything else."""
        self._dirty.update(dict.fromkeys(groups))
        self._outdated = True

    def draw(
        self,
        devices: Sequence[DeviceRecord],
        pools: Sequence[PoolRecord],
        next_pool: int,
        key_epoch: int,
        configs: Mapping[GroupId, GroupConfig],
    ) -> StorageMap:
        """The present map; the last one if nothing has changed. `devices` in order of their numbers."""
        if self._map is not None and not self._outdated:
            return self._map
        if tuple(devices) != self._devices:
            self._devices = tuple(devices)
            self._places = {record.id: place for place, record in enumerate(devices)}
        self._draw_rows(pools, configs)
        self.epoch.set(self.epoch.value + 1)
        self._map = StorageMap(
            version=MAP_VERSION,
            cluster=self._cluster,
            generation=self._generation,
            epoch=self.epoch.value,
            key_epoch=key_epoch,
            next_pool=next_pool,
            devices=tuple(record.shown() for record in devices),
            pools=tuple(self._pool(record) for record in pools),
        )
        self._outdated = False
        return self._map

    def _draw_rows(self, pools: Sequence[PoolRecord], configs: Mapping[GroupId, GroupConfig]) -> None:
        """Places never change (devices are numbered as they come), so rows stay good until their group changes."""
        for pool in pools:
            if pool.number not in self._rows:
                groups = [configs[group_id(pool.number, index)] for index in range(pool.groups)]
                self._rows[pool.number] = bytearray(pack_rows(groups, self._places, pool.replicas))
        replicas = {pool.number: pool.replicas for pool in pools}
        for group in self._dirty:
            width = replicas.get(pool_of(group))
            if width is not None and group in configs:
                start = (group & 0xFFFF) * row_size(width)
                row = pack_rows((configs[group],), self._places, width)
                self._rows[pool_of(group)][start : start + row_size(width)] = row
        self._dirty.clear()
        for number in [number for number in self._rows if number not in replicas]:
            del self._rows[number]

    def _pool(self, record: PoolRecord) -> Pool:
        rows = bytes(self._rows[record.number])
        return Pool(record.number, record.name, record.replicas, record.groups, record.min_write, rows)
