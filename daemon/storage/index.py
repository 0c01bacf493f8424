"""The index: names, slots, sizes, versions and bases in SQLite, written once per checkpoint. FORMAT.md, section Index.

The journal gives durability, so one transaction per checkpoint is enough; it is synced (FULL) before anything is
trimmed. Each row carries a checksum of itself: a damaged row is refused, never believed. The writer may be used in
the background thread while the reader serves the loop: SQLite's log lets both work.
"""

import contextlib
import sqlite3
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import xxhash

from daemon.storage.backend import Backend
from daemon.storage.head import Mark
from daemon.storage.limits import INDEX_CACHE
from daemon.storage.syncers import DiskFailed
from store.errors import ConfigError

VERSION: Final = 1
_OBJECT: Final = struct.Struct("<QqIQ")  # group, slot, size, version: hashed together with the name
_BASE: Final = struct.Struct("<QQQQ")  # group, n, epoch, since
_FIELDS: Final = struct.Struct("<Q")  # key
_STATE: Final = struct.Struct("<QQQ")

SCHEMA: Final = """
CREATE TABLE object(
    grp INTEGER, name BLOB, slot INTEGER NOT NULL, size INTEGER NOT NULL, version INTEGER NOT NULL,
    mark INTEGER NOT NULL, PRIMARY KEY(grp, name)) WITHOUT ROWID;
CREATE TABLE fields(key INTEGER PRIMARY KEY, content BLOB NOT NULL, mark INTEGER NOT NULL);
CREATE TABLE base(
    grp INTEGER PRIMARY KEY, n INTEGER NOT NULL, epoch INTEGER NOT NULL, since INTEGER NOT NULL,
    tables BLOB NOT NULL, mark INTEGER NOT NULL);
CREATE TABLE state(one INTEGER PRIMARY KEY CHECK(one = 1), scan BLOB NOT NULL);
"""


SLOTS_MAX: Final = 1 << 22  # 16 TiB of slots: what a file of ext4 can hold


class DamagedRow(Exception):
    """A row of the index does not match its checksum, or SQLite cannot read it."""


# What a damaged file makes SQLite, its Python face and the unpacking of its rows say.
_SIGNS_OF_DAMAGE: Final = (sqlite3.Error, DamagedRow, UnicodeDecodeError, OverflowError, TypeError, struct.error)


class ObjectRow(NamedTuple):
    group: int
    name: bytes
    slot: int  # NO_SLOT: no bytes, only a size
    size: int
    version: int


class BaseRow(NamedTuple):
    """The checkpoint of a group."""

    group: int
    n: int
    epoch: int
    since: int  # journal position of the checkpoint: BASE records before it say nothing new
    tables: bytes


class FieldsRow(NamedTuple):
    """What was saved last under a key: 0 for the device, else a group."""

    key: int
    content: bytes


class Changes(NamedTuple):
    """One checkpoint's transaction."""

    objects: list[ObjectRow]
    removed: list[tuple[int, bytes]]
    bases: list[BaseRow]
    fields: list[FieldsRow]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _object_mark(row: ObjectRow) -> int:
    return _signed(xxhash.xxh3_64_intdigest(_OBJECT.pack(row.group, row.slot, row.size, row.version) + row.name))


def _base_mark(row: BaseRow) -> int:
    return _signed(xxhash.xxh3_64_intdigest(_BASE.pack(*row[:4]) + row.tables))


def _fields_mark(row: FieldsRow) -> int:
    return _signed(xxhash.xxh3_64_intdigest(_FIELDS.pack(row.key) + row.content))


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """At a start damage is the person's to know: nothing goes on without what is asked for here."""
    try:
        yield
    except _SIGNS_OF_DAMAGE as error:
        raise ConfigError(f"the index is damaged ({error}); see `python -m daemon.storage.check`") from error


class Index:
    """Reads through `reader`, writes through `writer`. What a start needs raises ConfigError when it is damaged."""

    def __init__(self, backend: Backend) -> None:
        with _refusing():
            self._writer = backend.connect(write=True)
            self._prepare(self._writer)
            self._reader = backend.connect(write=False)
            self._reader.execute(f"PRAGMA cache_size=-{INDEX_CACHE // 1024}")

    @staticmethod
    def _prepare(writer: sqlite3.Connection) -> None:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA synchronous=FULL")
        writer.execute(f"PRAGMA cache_size=-{INDEX_CACHE // 1024}")
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            writer.execute("BEGIN")
            for statement in SCHEMA.split(";"):
                writer.execute(statement)
            writer.execute(f"PRAGMA user_version={VERSION}")
            writer.execute("COMMIT")
        elif version != VERSION:
            raise ConfigError(f"the index has format {version}, this program knows {VERSION}; update it")

    # Reading
    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Raises DamagedRow when SQLite cannot make sense of its file."""
        try:
            return self._reader.execute(sql, values).fetchall()
        except _SIGNS_OF_DAMAGE as error:
            raise DamagedRow(str(error)) from error

    def find(self, group: int, name: bytes) -> ObjectRow | None:
        """Raises DamagedRow."""
        found = self._rows("SELECT slot, size, version, mark FROM object WHERE grp=? AND name=?", group, name)
        return self._checked(group, name, *found[0]) if found else None

    @staticmethod
    def _checked(group: int, name: bytes, slot: int, size: int, version: int, mark: int) -> ObjectRow:
        row = ObjectRow(group, name, slot, size, version)
        try:
            if _object_mark(row) == mark:
                return row
        except (struct.error, TypeError):
            pass
        raise DamagedRow(f"index row of object {name!r} in group {group}")

    def names(self, group: int, prefix: bytes, after: bytes, limit: int) -> list[ObjectRow]:
        """Rows in name order behind `after`. Raises DamagedRow."""
        low = max(prefix, after)
        operator = ">" if after >= prefix and after else ">="
        sql = (
            f"SELECT name, slot, size, version, mark FROM object WHERE grp=? AND name{operator}? ORDER BY name LIMIT ?"
        )
        rows = [self._checked(group, *row) for row in self._rows(sql, group, low, limit)]
        return [row for row in rows if row.name.startswith(prefix)]

    def usage(self) -> list[tuple[int, int, int]]:
        """(pool number, objects, bytes) as of the last checkpoint. Reads every row: not for every moment."""
        rows = self._rows("SELECT grp >> 16, COUNT(*), SUM(size) FROM object GROUP BY grp >> 16")
        return [(int(pool), int(objects), int(size)) for pool, objects, size in rows]

    def all_objects(self) -> Iterator[tuple[ObjectRow, bool]]:
        """Every row, and whether it matches its checksum; for the offline check."""
        for row in self._reader.execute("SELECT grp, name, slot, size, version, mark FROM object"):
            try:
                yield self._checked(*row), True
            except DamagedRow:
                yield ObjectRow(*row[:5]), False

    def slots(self) -> list[int]:
        """Slots in use."""
        with _refusing():
            slots = [row[0] for row in self._rows("SELECT slot FROM object WHERE slot >= 0")]
            if any(type(slot) is not int or slot >= SLOTS_MAX for slot in slots):
                raise DamagedRow("a slot that cannot be")
            return slots

    def bases(self) -> list[BaseRow]:
        """Checkpoints of all groups."""
        with _refusing():
            found = self._rows("SELECT grp, n, epoch, since, tables, mark FROM base")
            rows = [BaseRow(*fields) for *fields, _ in found]
            for row, (*_, mark) in zip(rows, found, strict=True):
                if _base_mark(row) != mark:
                    raise DamagedRow(f"base of group {row.group}")
            return rows

    def fields(self) -> list[FieldsRow]:
        """What is saved under each key."""
        with _refusing():
            found = self._rows("SELECT key, content, mark FROM fields")
            rows = [FieldsRow(*fields) for *fields, _ in found]
            for row, (*_, mark) in zip(rows, found, strict=True):
                if _fields_mark(row) != mark:
                    raise DamagedRow(f"fields of key {row.key}")
            return rows

    def scan_start(self) -> Mark | None:
        """Where the journal is read from; None: from its beginning."""
        with _refusing():
            found = self._rows("SELECT scan FROM state")
            if not found:
                return None
            content = bytes(found[0][0])
            if len(content) != _STATE.size + 8 or xxhash.xxh3_64_digest(content[:-8]) != content[-8:]:
                raise DamagedRow("journal position")
            return Mark(*_STATE.unpack_from(content))

    def tables(self, group: int) -> bytes:
        """The tables of the group's base. Raises DamagedRow."""
        found = self._rows("SELECT tables FROM base WHERE grp=?", group)
        return bytes(found[0][0]) if found else b""

    # Writing, in the background thread
    def commit(self, changes: Changes) -> None:
        """One durable transaction."""
        try:
            self._write(changes)
        except sqlite3.Error as error:
            raise DiskFailed(f"the index cannot be written: {error}; the daemon stops") from error

    def _write(self, changes: Changes) -> None:
        writer = self._writer
        writer.execute("BEGIN IMMEDIATE")
        writer.executemany("DELETE FROM object WHERE grp=? AND name=?", changes.removed)
        writer.executemany(
            "INSERT OR REPLACE INTO object VALUES(?,?,?,?,?,?)", [(*row, _object_mark(row)) for row in changes.objects]
        )
        writer.executemany(
            "INSERT OR REPLACE INTO base VALUES(?,?,?,?,?,?)", [(*row, _base_mark(row)) for row in changes.bases]
        )
        writer.executemany(
            "INSERT OR REPLACE INTO fields VALUES(?,?,?)", [(*row, _fields_mark(row)) for row in changes.fields]
        )
        writer.execute("COMMIT")

    def commit_scan_start(self, mark: Mark) -> None:
        """From here on a start begins to read the journal; what lies before may be overwritten afterwards."""
        content = _STATE.pack(*mark)
        try:
            self._writer.execute(
                "INSERT OR REPLACE INTO state VALUES(1, ?)", (content + xxhash.xxh3_64_digest(content),)
            )
        except sqlite3.Error as error:
            raise DiskFailed(f"the index cannot be written: {error}; the daemon stops") from error

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        try:
            rows = self._rows("PRAGMA integrity_check(20)")
        except DamagedRow as error:
            return [str(error)]
        return [row[0] for row in rows if row[0] != "ok"]

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
