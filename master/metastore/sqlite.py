"""MetaStore in one SQLite file: WAL, synchronous FULL, all access from one thread of its own.

Leases live as long as the process at most: the file belongs to one master, so when it starts, whoever held a lease is
gone, and so are the items written under it.
"""

import asyncio
import itertools
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from master.metastore.interface import Compare, Event, Item, MetaStore, StoreFailed, Watch
from master.metastore.watching import Watchers

FORMAT: Final = 1
_CACHE_KIB: Final = 2048
_SCHEMA: Final = """
CREATE TABLE items (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, leased INTEGER NOT NULL);
CREATE TABLE state (revision INTEGER NOT NULL);
INSERT INTO state VALUES (0);
"""

T = TypeVar("T")


class _Lease:
    def __init__(self, seconds: float, timer: asyncio.TimerHandle) -> None:
        self.seconds, self.timer = seconds, timer
        self.keys: set[str] = set()


class SqliteStore:
    """See MetaStore. Open it with `SqliteStore.open`."""

    def __init__(self, database: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._database, self._thread = database, thread
        self._watchers = Watchers()
        self._leases: dict[int, _Lease] = {}
        self._lease_numbers = itertools.count(1)
        self._ending: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, path: Path) -> "SqliteStore":
        """Makes the file if there is none. Raises StoreFailed if it is damaged or of a later version."""
        thread = ThreadPoolExecutor(1, "metastore")
        try:
            database = await asyncio.get_running_loop().run_in_executor(thread, _open, path)
        except (sqlite3.Error, OSError) as error:
            thread.shutdown(wait=False)
            raise StoreFailed(f"cannot open {path}: {error}") from error
        except StoreFailed:
            thread.shutdown(wait=False)
            raise
        return cls(database, thread)

    async def get(self, key: str) -> Item | None:
        rows = await self._run(lambda: self._select("key = ?", (key,)))
        return rows[0] if rows else None

    async def range(self, prefix: str) -> list[Item]:
        return await self._run(lambda: self._select("substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)))

    async def transact(
        self, compare: Sequence[Compare], changes: Mapping[str, bytes | None], lease: int = 0
    ) -> int | None:
        if lease and lease not in self._leases:
            return None
        revision, events = await self._run(lambda: self._commit(compare, changes, bool(lease)))
        if revision is not None:
            self._follow_leases(changes, lease)
            if lease and lease not in self._leases:  # it ended while the transaction was on its way
                await self._drop(set(changes))
            self._watchers.tell(events)
        return revision

    def watch(self, prefix: str) -> Watch:
        return self._watchers.add(prefix)

    async def grant(self, seconds: float) -> int:
        number = next(self._lease_numbers)
        self._leases[number] = _Lease(seconds, self._timer(number, seconds))
        return number

    async def keep(self, lease: int) -> bool:
        held = self._leases.get(lease)
        if held is None:
            return False
        held.timer.cancel()
        held.timer = self._timer(lease, held.seconds)
        return True

    async def revoke(self, lease: int) -> None:
        held = self._leases.pop(lease, None)
        if held is not None:
            held.timer.cancel()
            await self._drop(held.keys)

    async def close(self) -> None:
        for held in self._leases.values():
            held.timer.cancel()
        self._leases.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._run(self._database.close)
        self._thread.shutdown(wait=False)

    # --- in the loop

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreFailed(f"the master's database failed: {error}") from error

    def _timer(self, lease: int, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._lease_ended, lease)

    def _lease_ended(self, lease: int) -> None:
        task = asyncio.get_running_loop().create_task(self.revoke(lease))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _follow_leases(self, changes: Mapping[str, bytes | None], lease: int) -> None:
        """An item belongs to the lease it was last written under."""
        for number, held in self._leases.items():
            if number == lease:
                held.keys.update(key for key, value in changes.items() if value is not None)
            else:
                held.keys.difference_update(changes)

    async def _drop(self, keys: set[str]) -> None:
        _, events = await self._run(lambda: self._commit((), dict.fromkeys(sorted(keys)), False))
        self._watchers.tell(events)

    # --- in the thread

    def _select(self, where: str, arguments: tuple[object, ...]) -> list[Item]:
        query = f"SELECT key, value, revision FROM items WHERE {where}"
        return [Item(key, value, revision) for key, value, revision in self._database.execute(query, arguments)]

    def _commit(
        self, compare: Sequence[Compare], changes: Mapping[str, bytes | None], leased: bool
    ) -> tuple[int | None, list[Event]]:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            revision = self._apply(compare, changes, leased)
        except BaseException:
            database.execute("ROLLBACK")
            raise
        if revision is None or not changes:
            database.execute("ROLLBACK")
            return revision, []
        database.execute("COMMIT")
        return revision, [Event(key, value, revision) for key, value in changes.items()]

    def _apply(self, compare: Sequence[Compare], changes: Mapping[str, bytes | None], leased: bool) -> int | None:
        database = self._database
        for key, expected in compare:
            row = database.execute("SELECT revision FROM items WHERE key = ?", (key,)).fetchone()
            if (row[0] if row else 0) != expected:
                return None
        revision: int = database.execute("SELECT revision FROM state").fetchone()[0]
        if not changes:
            return revision
        revision += 1
        database.execute("UPDATE state SET revision = ?", (revision,))
        gone = [(key,) for key, value in changes.items() if value is None]
        kept = [(key, value, revision, leased) for key, value in changes.items() if value is not None]
        database.executemany("DELETE FROM items WHERE key = ?", gone)
        database.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", kept)
        return revision


def _open(path: Path) -> sqlite3.Connection:
    # It holds secrets, and SQLite would go by the umask.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise StoreFailed(f"{path} was written by a later version of this program")
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
        database.execute("DELETE FROM items WHERE leased")
    except BaseException:
        database.close()
        raise
    return database


_: type[MetaStore] = SqliteStore
