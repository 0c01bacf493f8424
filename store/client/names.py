"""What programs call things, and what those things are called on the wire."""

from typing import Protocol

from store import direct
from store.client.access import Standing
from store.errors import Status, StoreError
from store.ids import GroupId, group_id
from store.limits import NAME_MAX
from store.placement import storage_map

Name = str | bytes


class PoolNames:
    """One pool as a program sees it: `label` is what it is called, `prefix` what its objects' names begin with."""

    __slots__ = ("label", "pool", "prefix")

    def __init__(self, label: str, pool: storage_map.Pool, prefix: bytes) -> None:
        self.label, self.pool, self.prefix = label, pool, prefix

    def wire(self, name: Name) -> bytes:
        """The object's name in requests. Raises StoreError INVALID for one of 0 or too many bytes."""
        raw = name.encode() if isinstance(name, str) else name
        wire = self.prefix + raw
        if not raw or len(wire) > NAME_MAX:
            most = NAME_MAX - len(self.prefix)
            raise StoreError(Status.INVALID, f"an object's name has 1 to {most} bytes; this one has {len(raw)}")
        return wire

    def group(self, wire: bytes) -> GroupId:
        return self.pool.group_of(wire)

    def groups(self) -> list[GroupId]:
        return [group_id(self.pool.number, index) for index in range(self.pool.groups)]

    def show(self, name: Name) -> str:
        """For messages."""
        return f"{self.label}/{name if isinstance(name, str) else name.decode(errors='backslashreplace')}"


class Namespace(Protocol):
    """Which pools there are."""

    def pool(self, name: str) -> PoolNames:
        """Raises StoreError NOT_FOUND."""


class MasterNamespace:
    """The pools of the storage map."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def pool(self, name: str) -> PoolNames:
        found = self._standing.storage_map.pool(name)
        if found is None:
            there = ", ".join(pool.name for pool in self._standing.storage_map.pools) or "none yet"
            raise StoreError(
                Status.NOT_FOUND, f"no pool '{name}' (pools: {there}); `store pool create {name}` makes it"
            )
        return PoolNames(name, found, b"")


class DirectNamespace:
    """A daemon without a master has any pool one names."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def pool(self, name: str) -> PoolNames:
        found = self._standing.storage_map.pool(direct.POOL)
        if found is None:
            raise StoreError(Status.NOT_FOUND, "that daemon serves no objects: restart it")
        return PoolNames(name, found, direct.object_name(name, b""))
