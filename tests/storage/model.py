"""What the store should hold, as plain bytes: the same operations on a dict."""

from dataclasses import dataclass, field

import xxhash

from daemon.core.record import Entry
from store.errors import Status
from store.ids import GroupId
from store.limits import OBJECT_MAX
from store.wire.header import Op


@dataclass
class ModelObject:
    content: bytearray = field(default_factory=bytearray)
    version: int = 0


WITH_PAYLOAD = (Op.WRITE, Op.CREATE, Op.REPLACE)
Objects = dict[bytes, ModelObject]


def apply(objects: Objects, entry: Entry, payload: bytes) -> tuple[Status, int]:
    """The effect of a record, as FORMAT.md says."""
    held = objects.get(entry.name)
    size = len(held.content) if held else 0
    outcome = _refusal(held, size, entry, payload)
    if outcome is not None:
        return outcome
    if entry.op == Op.DELETE:
        del objects[entry.name]
        return (Status.OK, 0)
    if held is None:
        held = objects[entry.name] = ModelObject()
    held.version = entry.epoch << 40 | entry.n
    content = held.content
    if entry.op == Op.REPLACE:
        content[:] = payload
    elif entry.op == Op.TRUNCATE:
        content[:] = content[: entry.size].ljust(entry.size, b"\0")
    elif entry.op == Op.TRIM:
        end = min(entry.offset + entry.size, size)
        if end > entry.offset:
            content[entry.offset : end] = bytes(end - entry.offset)
    else:
        offset = 0 if entry.op == Op.CREATE else entry.offset
        if payload:
            content[:] = content.ljust(offset, b"\0")
            content[offset : offset + len(payload)] = payload
    return (Status.OK, len(content))


def _refusal(held: ModelObject | None, size: int, entry: Entry, payload: bytes) -> tuple[Status, int] | None:
    if held is None and entry.op in (Op.DELETE, Op.TRUNCATE, Op.TRIM):
        return (Status.NOT_FOUND, 0)
    if held is not None and entry.op == Op.CREATE:
        return (Status.EXISTS, size)
    if entry.op == Op.WRITE and entry.offset + len(payload) > OBJECT_MAX:
        return (Status.TOO_LARGE, size)
    if entry.op == Op.TRUNCATE and entry.size > OBJECT_MAX:
        return (Status.TOO_LARGE, size)
    return None


def make_entry(
    group: int,
    n: int,
    op: int,
    name: bytes,
    payload: bytes = b"",
    *,
    offset: int = 0,
    size: int = 0,
    epoch: int = 1,
    prev_epoch: int = 0,
) -> Entry:
    """A record as the core would give it; its body is packed by the disk."""
    entry = Entry()
    entry.group, entry.n, entry.epoch, entry.prev_epoch = GroupId(group), n, epoch, prev_epoch
    entry.flags, entry.op, entry.serial, entry.sequence, entry.floor = 0, op, 9, n, 1
    entry.scope = entry.generation = 0
    entry.name, entry.offset = name, offset
    entry.size = len(payload) if op in WITH_PAYLOAD else size
    entry.payload = memoryview(payload) if payload else None
    entry.payload_sum = xxhash.xxh3_64_intdigest(payload)
    entry.where, entry.body, entry.reply = -1, None, None
    return entry
