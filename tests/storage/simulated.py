"""A disk in memory that can lose its power: what was not synced survives, vanishes or is torn, at random."""

import random
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from daemon.storage.backend import HEAD_SIZE, Source, View
from store.errors import ConfigError

PAGE: Final = 4096
SECTORS: Final = (512, 4096)


class Crash(BaseException):
    """The machine or the process stops here."""


class SimulatedFile:
    """Sparse pages as the process sees them, as the platter has them, and the writes in between."""

    def __init__(self, world: "SimulatedBackend", pages: dict[int, bytes], size: int) -> None:
        self._world = world
        self._pages: dict[int, bytearray] = {number: bytearray(page) for number, page in pages.items()}
        self._durable: dict[int, bytearray] = {number: bytearray(page) for number, page in pages.items()}
        self._durable_size = size
        self._pending: list[tuple[int, bytes | int]] = []  # offset, content or size of a punched hole
        self._size = size

    # The File protocol
    def write(self, views: Sequence[Source], size: int, offset: int) -> None:
        content = b"".join(views)
        assert len(content) == size
        self._world.take_space(self, offset, size)
        self._pending.append((offset, content))
        _put(self._pages, offset, content)
        self._size = max(self._size, offset + size)
        self._world.step()

    def read(self, view: View, offset: int) -> int:
        count = max(0, min(len(view), self._size - offset))
        done = 0
        while done < count:
            number, low = divmod(offset + done, PAGE)
            step = min(PAGE - low, count - done)
            page = self._pages.get(number)
            view[done : done + step] = bytes(step) if page is None else page[low : low + step]
            done += step
        return count

    def read_now(self, view: View, offset: int) -> int:
        if self._world.cold:
            raise BlockingIOError
        return self.read(view, offset)

    def sync(self) -> None:
        self._world.step()
        self.sync_first(len(self._pending))

    def punch(self, offset: int, size: int) -> None:
        self._pending.append((offset, size))
        _punch(self._pages, offset, size)
        self._world.step()

    def size(self) -> int:
        return self._size

    def allocated(self) -> int:
        return len(self._pages) * PAGE

    def close(self) -> None:
        pass

    # The simulation's side
    def has(self, number: int) -> bool:
        return number in self._pages

    def pending(self) -> int:
        return len(self._pending)

    def sync_first(self, count: int) -> None:
        for offset, change in self._pending[:count]:
            self._apply(self._durable, offset, change)
        del self._pending[:count]

    def _apply(self, pages: dict[int, bytearray], offset: int, change: bytes | int) -> None:
        if isinstance(change, int):
            _punch(pages, offset, change)
        else:
            _put(pages, offset, change)
            self._durable_size = max(self._durable_size, offset + len(change))

    def after_kill(self) -> tuple[dict[int, bytes], int]:
        return {number: bytes(page) for number, page in self._pages.items()}, self._size

    def after_power_cut(self, rng: random.Random) -> tuple[dict[int, bytes], int]:
        pages = {number: bytearray(page) for number, page in self._durable.items()}
        kept = rng.choice((0.0, 0.5, 0.9, 1.0))
        for offset, change in self._pending:
            fate = rng.random()
            if fate < kept:
                self._apply(pages, offset, change)
            elif not isinstance(change, int) and rng.random() < 0.5:
                sector = rng.choice(SECTORS)
                for low in range(offset - offset % sector, offset + len(change), sector):
                    if rng.random() < 0.5:
                        begin, end = max(low, offset), min(low + sector, offset + len(change))
                        self._apply(pages, begin, change[begin - offset : end - offset])
        return {number: bytes(page) for number, page in pages.items()}, self._durable_size

    def flip(self, rng: random.Random, first: int = PAGE) -> None:
        """Turn one bit over, behind everyone's back, in the first bytes of any page."""
        number = rng.choice(sorted(self._pages))
        bit = rng.randrange(first * 8)
        self._pages[number][bit >> 3] ^= 1 << (bit & 7)


def _put(pages: dict[int, bytearray], offset: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        number, low = divmod(offset + done, PAGE)
        step = min(PAGE - low, len(content) - done)
        page = pages.get(number)
        if page is None:
            page = pages[number] = bytearray(PAGE)
        page[low : low + step] = content[done : done + step]
        done += step


def _punch(pages: dict[int, bytearray], offset: int, size: int) -> None:
    for number in range(offset // PAGE, (offset + size) // PAGE):
        pages.pop(number, None)


class _Connection(sqlite3.Connection):
    """Tells the world of each commit: what is committed survives a power cut."""

    world: "SimulatedBackend"

    def execute(self, sql: str, parameters: object = ()) -> sqlite3.Cursor:
        if sql == "COMMIT":
            self.world.step()
        cursor = super().execute(sql, parameters)  # type: ignore[arg-type]
        if not self.in_transaction and not sql.startswith(("SELECT", "PRAGMA")):
            self.world.database = self.serialize()
        return cursor

    def close(self) -> None:
        pass  # both connections are one


class SimulatedSyncer:
    def __init__(self, world: "SimulatedBackend", file: SimulatedFile) -> None:
        self._world, self._file = world, file
        self._covers: int | None = None

    def submit(self) -> None:
        assert self._covers is None
        self._covers = self._file.pending()

    def finished(self) -> bool:
        if self._covers is None or self._world.late():
            return False
        self._world.step()
        self._file.sync_first(self._covers)
        self._covers = None
        return True

    def close(self) -> None:
        pass


class SimulatedBackend:
    """`fuse` steps (writes, punches, syncs, commits) happen before a Crash; None: for ever."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.files: dict[str, SimulatedFile] = {}
        self._small: dict[str, bytes] = {}
        self.heads: dict[str, bytearray] = {}
        self.database = b""
        self._connection: _Connection | None = None
        self._job: Callable[[], None] | None = None
        self._boot = rng.getrandbits(64)
        self.locked = False
        self.fuse: int | None = None
        self.cold = False  # nothing is in memory
        self.space: int | None = None  # bytes that files may take; None: any number

    # Faults
    def step(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise Crash

    def late(self) -> bool:
        """Whether a completion takes its time."""
        return self._rng.random() < 0.3

    def take_space(self, file: SimulatedFile, offset: int, size: int) -> None:
        if self.space is None:
            return
        fresh = sum(not file.has(number) for number in range(offset // PAGE, (offset + size - 1) // PAGE + 1))
        if sum(other.allocated() for other in self.files.values()) + fresh * PAGE > self.space:
            raise OSError(28, "No space left on device")

    def killed(self) -> "SimulatedBackend":
        """What the next process finds after this one was killed."""
        return self._next({name: file.after_kill() for name, file in self.files.items()}, self._boot, self.heads)

    def power_cut(self) -> "SimulatedBackend":
        """What the next boot finds."""
        files = {name: file.after_power_cut(self._rng) for name, file in self.files.items()}
        return self._next(files, self._rng.getrandbits(64), {})

    def _next(
        self, files: dict[str, tuple[dict[int, bytes], int]], boot: int, heads: dict[str, bytearray]
    ) -> "SimulatedBackend":
        world = SimulatedBackend(self._rng)
        world.files = {name: SimulatedFile(world, pages, size) for name, (pages, size) in files.items()}
        world._small, world.database, world._boot = dict(self._small), self.database, boot
        world.heads = {key: bytearray(head) for key, head in heads.items()}
        world.space = self.space
        return world

    # The Backend protocol
    def lock(self) -> None:
        if self.locked:
            raise ConfigError("in use")
        self.locked = True

    def file(self, name: str) -> SimulatedFile:
        return self.files.setdefault(name, SimulatedFile(self, {}, 0))

    def load(self, name: str) -> bytes | None:
        return self._small.get(name)

    def store(self, name: str, content: bytes) -> None:
        self.step()
        self._small[name] = content

    def remove(self, name: str) -> None:
        self._small.pop(name, None)

    def connect(self, *, write: bool) -> sqlite3.Connection:
        if self._connection is None or write:
            connection = sqlite3.connect(":memory:", factory=_Connection, isolation_level=None)
            connection.world = self
            if self.database:
                connection.deserialize(self.database)
            self._connection = connection
        return self._connection

    def head(self, key: str) -> bytearray:
        return self.heads.setdefault(key, bytearray(HEAD_SIZE))

    def boot_id(self) -> str:
        return f"{self._boot:x}"

    def fresh_id(self) -> bytes:
        return self._rng.randbytes(16)

    def free(self) -> int:
        if self.space is None:
            return 1 << 40
        return max(0, self.space - sum(file.allocated() for file in self.files.values()))

    def syncer(self, file: object) -> SimulatedSyncer:
        assert isinstance(file, SimulatedFile)
        return SimulatedSyncer(self, file)

    def start(self, job: Callable[[], None]) -> None:
        assert self._job is None
        self._job = job

    def job_finished(self) -> bool:
        if self._job is None or self.late():
            return False
        job, self._job = self._job, None
        job()
        return True

    def fileno(self) -> int:
        return -1

    def settle(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.locked = False
