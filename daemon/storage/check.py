"""An offline look at a disk: what is in it, and whether every byte is what it should be. Changes nothing of it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from daemon.core.record import RECORD, RecordKind
from daemon.storage.backend import Backend, PosixBackend
from daemon.storage.blocks import matches
from daemon.storage.creation import read_identity
from daemon.storage.data_file import SUM_FIRST, SUM_HOLE, DataFile
from daemon.storage.identity import Identity
from daemon.storage.index import Index, ObjectRow
from daemon.storage.journal import START, Journal
from daemon.storage.overlay import blocks_of
from daemon.storage.records import HEADER_SIZE
from daemon.storage.redo import RedoLog
from store.errors import ConfigError
from store.limits import BLOCK


class Report(NamedTuple):
    identity: Identity
    groups: int
    objects: int
    stored: int  # bytes of blocks that are not holes
    journal_records: dict[str, int]  # by kind, from the scan's start on
    journal_used: int
    interrupted: bool  # a checkpoint was cut short: bad blocks may be its, and the next start finishes it
    problems: list[str]

    def lines(self) -> list[str]:
        """The report for people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.journal_records.items()))
        lines = [
            f"cluster {self.identity.cluster.hex()}, device {self.identity.device.hex()}",
            f"{self.objects} objects in {self.groups} groups, {self.stored} bytes in blocks",
            f"journal: {self.journal_used} of {self.identity.journal_size} bytes in use; {kinds or 'no records'}",
        ]
        if self.interrupted:
            lines.append("a checkpoint was interrupted; start the daemon once, then check again")
        return lines + (self.problems or ["no problems"])


def check(backend: Backend) -> Report:
    """Read everything and compare every checksum. ConfigError when there is no disk or its index cannot be opened."""
    backend.lock()
    who = read_identity(backend, None)
    index = Index(backend)
    journal = Journal(backend.file("journal"), who.journal, who.journal_size, index.scan_start() or START)
    data = DataFile(backend.file("data"), backend.file("sums"))
    redo = RedoLog(backend, who.journal)
    try:
        problems = index.problems()
        start = journal.position
        bases = {base.group: base.n for base in index.bases()}
        records = _journal_records(journal, problems)
        announced = redo.announced()
        interrupted = any(found.base.n > bases.get(group, 0) for group, found in announced.items())
        objects, stored = _objects(index, data, problems)
        used = journal.position - start
        return Report(who, len(bases), objects, stored, records, used, interrupted, problems)
    finally:
        index.close()
        data.close()
        redo.close()
        backend.close()


def _journal_records(journal: Journal, problems: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for frame in journal.frames():
        at = 0
        while at < len(frame.body):
            fields = RECORD.unpack_from(frame.body, at)
            payload = frame.body[at + HEADER_SIZE + fields[5] : at + fields[0]]
            if payload and xxhash.xxh3_64_intdigest(payload) != fields[17]:
                problems.append(f"journal: payload of a record at {frame.body_position + at} is wrong")
            kind = RecordKind(fields[1]).name
            counts[kind] = counts.get(kind, 0) + 1
            at += fields[0]
    return counts


def _objects(index: Index, data: DataFile, problems: list[str]) -> tuple[int, int]:
    count = stored = 0
    slots: dict[int, ObjectRow] = {}
    for row, intact in index.all_objects():
        count += 1
        if not intact:
            problems.append(f"index: row of object {row.name!r} in group {row.group} is damaged")
        elif row.slot >= 0:
            if row.slot in slots:
                problems.append(f"index: slot {row.slot} belongs to {slots[row.slot].name!r} and {row.name!r}")
            slots[row.slot] = row
            blocks = list(_verified_blocks(row, data))
            stored += BLOCK * sum(good for _, good in blocks)
            where = f"object {row.name!r} in group {row.group}"
            problems += [f"{where}: block {at} is bad" for at, good in blocks if not good]
    return count, stored


def _verified_blocks(row: ObjectRow, data: DataFile) -> Iterator[tuple[int, bool]]:
    """Every block that is not a hole, and whether its bytes match."""
    view = memoryview(bytearray(BLOCK))
    for block, total in enumerate(data.load_sums(row.slot)[: blocks_of(row.size)]):
        if total == SUM_HOLE:
            continue
        good = False
        if total >= SUM_FIRST:
            try:
                good = data.read(view, row.slot, block) == BLOCK and matches(view, total)
            except OSError:
                good = False
        yield block, good


def main(arguments: list[str]) -> int:
    """`python -m daemon.storage.check DIR`: 0 = sound, 1 = problems or no disk, 2 = usage."""
    if len(arguments) != 1:
        print("usage: python -m daemon.storage.check DIR", file=sys.stderr)
        return 2
    try:
        report = check(PosixBackend(Path(arguments[0])))
    except ConfigError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
