"""The pools of the cluster: what was asked for. Where their groups are is the authority's. Pure."""

import re
from typing import Final

import msgspec

from master.core.table import Cell, Changes, Table
from store.errors import Status, StoreError
from store.limits import GROUPS_MAX, POOLS_MAX, REPLICAS_MAX

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class PoolRecord(msgspec.Struct, frozen=True):
    number: int
    name: str
    replicas: int
    groups: int
    min_write: int
    created: int  # unix seconds


class Pools:
    def __init__(self, changes: Changes) -> None:
        self.table = Table(changes, "pool/", PoolRecord)
        self._next = Cell(changes, "next_pool", 1)

    def load(self, items: list[tuple[str, bytes]]) -> None:
        self.table.load(items)
        self._next.load(items)

    @property
    def next_number(self) -> int:
        """Numbers below it have been used, and are not used again."""
        return self._next.value

    def check(self, name: str, replicas: int, groups: int, min_write: int) -> None:
        """Raises StoreError unless such a pool could be made, given enough devices."""
        if not _NAME.fullmatch(name):
            text = f"no pool name: '{name}'; at most 63 letters, digits and _ . -, letter or digit first"
            raise StoreError(Status.INVALID, text)
        if not 1 <= replicas <= REPLICAS_MAX:
            raise StoreError(Status.INVALID, f"a pool keeps 1 to {REPLICAS_MAX} copies, not {replicas}")
        if not 1 <= groups <= GROUPS_MAX:
            raise StoreError(Status.INVALID, f"a pool has 1 to {GROUPS_MAX} groups, not {groups}")
        if not 1 <= min_write <= replicas:
            raise StoreError(Status.INVALID, f"min_write must be 1 to {replicas}, the number of copies")
        if self.find(name) is not None:
            raise StoreError(Status.EXISTS, f"there is a pool '{name}' already")
        if len(self.table) >= POOLS_MAX:
            raise StoreError(Status.NO_SPACE, f"this cluster has {POOLS_MAX} pools already")

    def create(self, wall: int, name: str, replicas: int, groups: int, min_write: int) -> PoolRecord:
        """After `check`."""
        record = PoolRecord(self._next.value, name, replicas, groups, min_write, wall)
        self._next.set(record.number + 1)
        self.table.put(str(record.number), record)
        return record

    def remove(self, record: PoolRecord) -> None:
        self.table.delete(str(record.number))

    def find(self, name: str) -> PoolRecord | None:
        return next((record for record in self.table if record.name == name), None)

    def named(self, name: str) -> PoolRecord:
        """Raises StoreError NOT_FOUND."""
        record = self.find(name)
        if record is None:
            raise StoreError(Status.NOT_FOUND, f"there is no pool '{name}'; see `store pool ls`")
        return record

    def numbered(self, number: int) -> PoolRecord | None:
        return self.table.get(str(number))

    def all(self) -> list[PoolRecord]:
        return sorted(self.table, key=lambda record: record.number)
