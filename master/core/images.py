"""The registry of images and their locks: one writer at a time, known by a generation that only rises. Pure.

A lock is a lease on the master's clock. It ends when its holder gives it back, when it has not been renewed for the
lease and somebody else asks, or when somebody takes it. Whoever gets it next has a higher generation and fences the
image's groups with it before the first write (replication rule R36), so an old holder that does not know yet can do no
harm. A lock that ran out but that nobody wanted may still be renewed.
"""

import re
from typing import Final

import msgspec

from master.core.table import Changes, Table
from store.control.messages import ImageInfo, ImageOpened, ImageRenewed, Mode
from store.errors import Status, StoreError
from store.limits import BLOCK, IMAGE_LOCK_LEASE_S, IMAGE_MAX, IMAGE_NAME_MAX, OBJECT_MAX

_NAME: Final = re.compile(r"[^\s/\x00-\x1f\x7f]+")


class ImageRecord(msgspec.Struct, frozen=True):
    id: int
    name: str
    pool: int
    size: int
    created: int  # unix seconds
    generation: int = 0
    holder: str = ""  # empty: not locked
    owner: str = ""  # the holder's client name

    @property
    def prefix(self) -> bytes:
        """With the id: an image made again under an old name must not find the old blocks."""
        return f"{self.name}.{self.id:016x}.".encode()


class Images:
    def __init__(self, changes: Changes) -> None:
        self.table = Table(changes, "image/", ImageRecord)
        self._ids: dict[tuple[int, str], int] = {}
        self._expires: dict[int, float] = {}  # image -> when its lock's lease ends

    def loaded(self, now: float) -> None:
        """After the table was loaded: a restart of the master counts as a renewal of every lock."""
        for record in self.table:
            self._ids[record.pool, record.name] = record.id
            if record.holder:
                self._expires[record.id] = now + IMAGE_LOCK_LEASE_S

    # --- the registry

    def create(self, wall: int, number: int, pool: int, name: str, size: int) -> ImageRecord:
        """`number`: 64 random bits, not 0. Raises StoreError."""
        if not _NAME.fullmatch(name) or len(name.encode()) > IMAGE_NAME_MAX:
            text = f"no image name: '{name}'; 1 to {IMAGE_NAME_MAX} bytes, no spaces and no slash"
            raise StoreError(Status.INVALID, text)
        _check_size(size)
        if (pool, name) in self._ids:
            raise StoreError(Status.EXISTS, f"the pool has an image '{name}' already")
        if self.table.get(_key(number)) is not None:
            raise StoreError(Status.BUSY, "try again")  # 64 random bits met
        record = ImageRecord(number, name, pool, size, wall)
        self._ids[pool, name] = number
        self.table.put(_key(number), record)
        return record

    def find(self, pool: int, name: str) -> ImageRecord:
        """Raises StoreError NOT_FOUND."""
        number = self._ids.get((pool, name))
        record = None if number is None else self.table.get(_key(number))
        if record is None:
            raise StoreError(Status.NOT_FOUND, f"there is no image '{name}' in this pool; see `store image ls`")
        return record

    def numbered(self, number: int) -> ImageRecord:
        """Raises StoreError NOT_FOUND."""
        record = self.table.get(_key(number))
        if record is None:
            raise StoreError(Status.NOT_FOUND, "the image has been removed")
        return record

    def of_pool(self, pool: int) -> list[ImageRecord]:
        return [record for record in self.table if record.pool == pool]

    def resize(self, record: ImageRecord, size: int, generation: int) -> ImageRecord:
        """Growing needs no lock. Raises StoreError."""
        _check_size(size)
        if size < record.size:
            self._must_hold(record, generation, "shrink")
        changed = msgspec.structs.replace(record, size=size)
        self.table.put(_key(record.id), changed)
        return changed

    def remove(self, now: float, record: ImageRecord, generation: int) -> None:
        """Raises StoreError BUSY while somebody else holds the lock."""
        if self._is_held(now, record) and generation != record.generation:
            raise self._refusal(now, record)
        self._forget(record)

    def remove_all(self, pool: int) -> None:
        for record in self.of_pool(pool):
            self._forget(record)

    def open_in(self, now: float, pool: int) -> ImageRecord | None:
        """Some image of the pool whose lock is held."""
        return next((record for record in self.of_pool(pool) if self._is_held(now, record)), None)

    # --- locks

    def open(self, now: float, record: ImageRecord, mode: Mode, holder: str, owner: str) -> tuple[ImageRecord, int]:
        """The record and the lock generation (0 for readers). Raises StoreError BUSY, naming the holder."""
        if mode == Mode.READ:
            return record, 0
        if mode == Mode.WRITE and self._is_held(now, record):
            raise self._refusal(now, record)
        generation = record.generation + 1
        shown = holder or owner
        changed = msgspec.structs.replace(record, generation=generation, holder=shown, owner=owner)
        self.table.put(_key(record.id), changed)
        self._expires[record.id] = now + IMAGE_LOCK_LEASE_S
        return changed, generation

    def renew(self, now: float, record: ImageRecord, generation: int) -> ImageRenewed:
        """Nothing is written: after a restart of the master all locks are renewed anyway. Raises StoreError FENCED."""
        self._must_hold(record, generation, "renew")
        self._expires[record.id] = now + IMAGE_LOCK_LEASE_S
        return ImageRenewed(IMAGE_LOCK_LEASE_S, record.size)

    def close(self, record: ImageRecord, generation: int) -> None:
        """Nothing happens if the lock belongs to another meanwhile."""
        if record.holder and record.generation == generation:
            self.table.put(_key(record.id), msgspec.structs.replace(record, holder="", owner=""))
            self._expires.pop(record.id, None)

    # --- views

    def info(self, now: float, record: ImageRecord, pool: str) -> ImageInfo:
        held = self._is_held(now, record)
        return ImageInfo(
            name=record.name,
            id=record.id,
            pool=pool,
            pool_number=record.pool,
            size=record.size,
            object_size=OBJECT_MAX,
            prefix=record.prefix,
            created=record.created,
            generation=record.generation,
            holder=record.holder if held else "",
            expires_in=self._left(now, record) if held else 0.0,
        )

    def opened(self, now: float, record: ImageRecord, generation: int, pool: str) -> ImageOpened:
        return ImageOpened(image=self.info(now, record, pool), generation=generation, lease=IMAGE_LOCK_LEASE_S)

    # --- inside

    def _left(self, now: float, record: ImageRecord) -> float:
        return max(0.0, self._expires.get(record.id, now) - now)

    def _is_held(self, now: float, record: ImageRecord) -> bool:
        return bool(record.holder) and self._left(now, record) > 0

    def _must_hold(self, record: ImageRecord, generation: int, what: str) -> None:
        if not record.holder or record.generation != generation:
            by = f" by {record.holder}" if record.holder else ""
            raise StoreError(Status.FENCED, f"cannot {what} image '{record.name}': its lock was taken{by}")

    def _refusal(self, now: float, record: ImageRecord) -> StoreError:
        left = self._left(now, record)
        text = f"image '{record.name}' is open for writing by {record.holder}; if that is gone, wait {left:.0f} s"
        return StoreError(Status.BUSY, text)

    def _forget(self, record: ImageRecord) -> None:
        self.table.delete(_key(record.id))
        self._ids.pop((record.pool, record.name), None)
        self._expires.pop(record.id, None)


def _check_size(size: int) -> None:
    if not 0 < size <= IMAGE_MAX or size % BLOCK:
        text = f"an image has a size above 0 and at most {IMAGE_MAX >> 40} TiB, in steps of {BLOCK} bytes"
        raise StoreError(Status.INVALID, text)


def _key(number: int) -> str:
    return f"{number:016x}"
