"""Bytes on the disk as FORMAT.md says, written out once and for ever."""

import random

import pytest

from daemon.core.record import RecordKind
from daemon.storage import identity
from daemon.storage.head import Head, Mark
from daemon.storage.journal import START, Journal
from daemon.storage.records import pack_entry, pack_note, unpack_entry, unpack_note
from store.errors import ConfigError
from store.ids import DeviceId
from store.wire.header import Op
from tests.storage.model import make_entry
from tests.storage.simulated import SimulatedBackend

JOURNAL_ID = bytes(range(16))
ENTRY = (
    "61000000" "01" "00" "10" "00" "01000100" "0400" "0200"  # length, kind, flags, op, 0, group, name, floor
    "0200000000000000" "0500000000000000" "0200000000000000"  # epoch, n, epoch before
    "0900000000000000" "0500000000000000" "0000000000000000"  # serial, sequence, scope
    "00000000" "00100000" "05000000" "05000000"  # lock generation, offset, size, bytes of payload
    "fddc625c55e85595"  # xxh3 of "hello"
    "6e616d65" "68656c6c6f"
)  # fmt: skip
FRAME = "3148594a0000000061000000010000000100000000000000"  # magic, lap, bytes, records, sequence


def entry_bytes() -> bytes:
    entry = make_entry(0x10001, 5, Op.WRITE, b"name", b"hello", offset=4096, epoch=2, prev_epoch=2)
    entry.floor = 3
    return pack_entry(entry, b"hello")


def test_an_entry_and_back() -> None:
    record = entry_bytes()
    assert record.hex() == ENTRY
    entry = unpack_entry(memoryview(record), 0, 77)
    assert (entry.group, entry.n, entry.epoch, entry.prev_epoch) == (0x10001, 5, 2, 2)
    assert (entry.name, entry.offset, entry.size, entry.where, entry.payload) == (b"name", 4096, 5, 77, None)
    assert (entry.serial, entry.sequence, entry.floor) == (9, 5, 3)


def test_a_note_and_back() -> None:
    record = pack_note(RecordKind.IMAGE, 7, 11, 3, b"\1" * 4096, b"obj", 8192)
    note = unpack_note(memoryview(record), 0, 5)
    assert (note.kind, note.group, note.n, note.epoch, note.name, note.offset) == (5, 7, 11, 3, b"obj", 8192)
    assert len(record) == 88 + 3 + 4096


def test_a_frame() -> None:
    file = SimulatedBackend(random.Random(0)).file("journal")
    journal = Journal(file, JOURNAL_ID, 1 << 20, START)
    assert journal.append(entry_bytes()) == 32
    frame = memoryview(bytearray(32 + len(entry_bytes())))
    file.read(frame, 0)
    assert frame[:24].hex() == FRAME
    assert frame[24:32].hex() == "41e090132a0e9b11"
    assert frame[32:].hex() == ENTRY
    assert journal.mark() == Mark(32 + 97, 2, int.from_bytes(frame[24:32], "little"))


def test_the_identity_file() -> None:
    who = identity.Identity(b"c" * 16, DeviceId(b"d" * 16), JOURNAL_ID, 64 << 20, 0)
    content = identity.encode(who)
    assert content.decode().splitlines() == [
        "format hyphae-disk-1",
        "cluster 63636363636363636363636363636363",
        "device 64646464646464646464646464646464",
        "journal 000102030405060708090a0b0c0d0e0f",
        "journal_size 67108864",
        "capacity 0",
        "check 6c51ea437f3d247d",
    ]
    assert identity.decode(content, "here") == who


@pytest.mark.parametrize("at", range(0, 200, 3))
def test_a_damaged_identity_is_refused(at: int) -> None:
    content = bytearray(identity.encode(identity.Identity(b"c" * 16, DeviceId(b"d" * 16), JOURNAL_ID, 64 << 20, 0)))
    content[at] ^= 4
    with pytest.raises(ConfigError, match="here: "):
        identity.decode(bytes(content), "here")


def test_a_head_torn_in_one_slot_is_still_known() -> None:
    memory = bytearray(64)
    head = Head(memory)
    assert head.load() is None
    head.store(1000, 1, 5)
    head.store(2000, 2, 6)
    assert memory.hex()[:64] == "d007000000000000020000000000000006000000000000002db2403a48a50394"
    assert head.load() == Mark(2000, 2, 6)
    memory[3] ^= 1
    assert head.load() == Mark(1000, 1, 5)
