"""Objects of one pool, asynchronously."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

from store.client.names import Name, PoolNames
from store.client.operation import NOTHING, Operation
from store.client.outcome import require_ok
from store.errors import Status, StoreError
from store.ids import GroupId
from store.limits import CLIENT_BATCH, OBJECT_MAX
from store.placement.storage_map import Route
from store.wire.header import Flag, Op
from store.wire.listing import Listed, unpack_listing

if TYPE_CHECKING:
    from store.client.client import Client

_PAGE: Final = 1000  # rows asked for at a time; the daemon sends as many as fit a datagram


class ObjectStat(NamedTuple):
    size: int  # bytes
    version: int  # differs after every change


class Pool:
    """Every method raises StoreError with the status and one line; writes are durable when they return.

    TIMEOUT of a write means that it may or may not have taken effect.
    """

    def __init__(self, client: "Client", names: PoolNames) -> None:
        self._client, self.names = client, names

    async def write(self, name: Name, data: bytes, offset: int = 0) -> int:
        """Puts bytes at an offset; the object is made or extended as needed. Returns its size."""
        return await self._put(Op.WRITE, "write", name, data, offset)

    async def create(self, name: Name, data: bytes) -> int:
        """EXISTS if there is one already."""
        return await self._put(Op.CREATE, "create", name, data, 0)

    async def replace(self, name: Name, data: bytes) -> int:
        """The object becomes exactly these bytes."""
        return await self._put(Op.REPLACE, "replace", name, data, 0)

    async def read(self, name: Name, offset: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes, all of one version; fewer where the object ends. INVALID beyond its end."""
        wanted = OBJECT_MAX - offset if length is None else min(length, OBJECT_MAX - offset)
        if offset < 0 or wanted < 0:
            raise StoreError(Status.INVALID, f"no object reaches to offset {offset}: the limit is {OBJECT_MAX} bytes")
        if wanted == 0:
            wanted_size = (await self.stat(name)).size
            self._check_offset(name, offset, wanted_size)
            return b""
        buffer = bytearray(wanted)
        operation = self._operation(Op.READ, name, offset=offset, into=memoryview(buffer), flags=Flag.UNTORN)
        await self._client.perform(operation)
        require_ok(operation, f"read {self.names.show(name)}")
        self._check_offset(name, offset, operation.object_size)
        return bytes(memoryview(buffer)[: operation.length])

    async def stat(self, name: Name) -> ObjectStat:
        operation = await self._ended(self._operation(Op.STAT, name), f"stat {self.names.show(name)}")
        return ObjectStat(operation.object_size, operation.version)

    async def delete(self, name: Name) -> None:
        """NOT_FOUND if there is none."""
        await self._ended(self._operation(Op.DELETE, name, flags=Flag.DURABLE), f"delete {self.names.show(name)}")

    async def truncate(self, name: Name, size: int) -> None:
        """Cuts the object, or extends it with zeros that take no room."""
        _check_range(0, size)
        operation = self._operation(Op.TRUNCATE, name, size=size, flags=Flag.DURABLE)
        await self._ended(operation, f"truncate {self.names.show(name)}")

    async def trim(self, name: Name, offset: int, length: int) -> None:
        """The range reads as zeros and takes no room; the object's size stays."""
        _check_range(offset, length)
        operation = self._operation(Op.TRIM, name, offset=offset, size=length, flags=Flag.DURABLE)
        await self._ended(operation, f"trim {self.names.show(name)}")

    async def list(self, prefix: Name = b"") -> AsyncIterator[Listed]:
        """Objects whose names begin with `prefix`, group after group: in no order of names across groups."""
        raw = prefix.encode() if isinstance(prefix, str) else prefix
        groups = self.names.groups()
        for start in range(0, len(groups), CLIENT_BATCH):
            firsts = [self._listing(group, raw, b"") for group in groups[start : start + CLIENT_BATCH]]
            await self._client.perform_all(firsts)
            for first in firsts:
                async for row in self._rows(first, raw):
                    yield row

    def locate(self, name: Name) -> Route:
        """Where the map says the object is, or would be."""
        group = self.names.group(self.names.wire(name))
        route = self._client.access.standing.storage_map.route(group)
        if route is None:
            raise StoreError(Status.NOT_FOUND, f"the map has no pool '{self.names.label}' any more")
        return route

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _put(self, op: Op, verb: str, name: Name, data: bytes, offset: int) -> int:
        _check_range(offset, len(data))
        operation = self._operation(op, name, offset=offset, size=len(data), payload=data, flags=Flag.DURABLE)
        await self._ended(operation, f"{verb} {self.names.show(name)}")
        return operation.object_size

    def _operation(
        self,
        op: Op,
        name: Name,
        *,
        offset: int = 0,
        size: int = 0,
        payload: bytes = b"",
        into: memoryview = NOTHING,
        flags: int = 0,
    ) -> Operation:
        wire = self.names.wire(name)
        group, until = self.names.group(wire), self._client.until()
        return Operation(
            op, group, wire, until, offset=offset, size=size, payload=payload, into=into, flags=flags
        )  # fmt: skip

    async def _ended(self, operation: Operation, what: str) -> Operation:
        await self._client.perform(operation)
        require_ok(operation, what)
        return operation

    def _listing(self, group: GroupId, prefix: bytes, after: bytes) -> Operation:
        wire = self.names.prefix + prefix
        return Operation(Op.LIST, group, wire, self._client.until(), size=_PAGE, payload=after)

    async def _rows(self, operation: Operation, prefix: bytes) -> AsyncIterator[Listed]:
        """The rows of one group, page after page, beginning with a page that is here already."""
        cut = len(self.names.prefix)
        while True:
            require_ok(operation, f"list {self.names.label}")
            after = b""
            for row in unpack_listing(operation.data):
                after = row.name
                yield Listed(row.name[cut:], row.size, row.version)
            if not operation.object_size or not after:
                return
            operation = self._listing(operation.group, prefix, after)
            await self._client.perform(operation)

    def _check_offset(self, name: Name, offset: int, size: int) -> None:
        if offset > size:
            text = f"read {self.names.show(name)}: offset {offset} is past its end (it has {size} bytes)"
            raise StoreError(Status.INVALID, text)


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0:
        raise StoreError(Status.INVALID, "offsets and lengths are not negative")
    if offset + length > OBJECT_MAX:
        raise StoreError(
            Status.TOO_LARGE, f"an object has at most {OBJECT_MAX} bytes; this would reach to {offset + length}"
        )
