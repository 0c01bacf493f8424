"""The ring: laps, torn frames, tails that were given up, zeros written ahead of use."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.record import RecordKind
from daemon.storage.head import Mark
from daemon.storage.journal import FRAME_SIZE, START, Journal, JournalFull, prewrite_all
from daemon.storage.records import pack_note
from tests.storage.simulated import SimulatedBackend, SimulatedFile

SIZE = 64 * 1024
IDENTITY = b"j" * 16


def new_file() -> SimulatedFile:
    file = SimulatedBackend(random.Random(0)).file("journal")
    prewrite_all(file, SIZE)
    return file


def note(number: int, size: int) -> bytes:
    return pack_note(RecordKind.META, number, 0, 0, bytes([number % 251]) * size)


def bodies(journal: Journal) -> list[bytes]:
    return [bytes(frame.body) for frame in journal.frames() if frame.body]


def open_at(file: SimulatedFile, mark: Mark) -> Journal:
    return Journal(file, IDENTITY, SIZE, mark)


@given(st.lists(st.integers(0, 9000), max_size=60), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_a_scan_finds_what_was_appended_behind_its_mark_however_often_the_ring_went_round(
    sizes: list[int], first: int
) -> None:
    file = new_file()
    journal = open_at(file, START)
    marks, records = [journal.mark()], [note(number, size) for number, size in enumerate(sizes)]
    for record in records:
        journal.append(record)
        marks.append(journal.mark())
        journal.tail = journal.position  # nothing is needed: what comes may overwrite it
    first = min(first, len(records))
    while marks[-1].position - marks[first].position > SIZE - 2 * FRAME_SIZE:
        first += 1
    again = open_at(file, marks[first])
    assert bodies(again) == records[first:]
    assert again.mark() == marks[-1]


def test_frames_of_an_earlier_lap_are_not_taken_for_new_ones() -> None:
    file = new_file()
    journal = open_at(file, START)
    record = note(1, 1000)
    for _ in range(3 * SIZE // (FRAME_SIZE + len(record))):
        journal.append(record)
        journal.tail = journal.position
    end = journal.mark()
    again = open_at(file, end)
    assert bodies(again) == [] and again.mark() == end


def test_the_rest_of_a_tail_that_was_given_up_does_not_come_back() -> None:
    """Frame 2 is torn, 3 is whole; a new frame takes the place of 2 with the same length."""
    file = new_file()
    journal = open_at(file, START)
    journal.append(note(1, 100))
    torn_at = journal.position
    for number in (2, 3):
        journal.append(note(number, 100))
    byte = bytearray(1)
    file.read(byte, torn_at + 60)
    file.write([bytes([byte[0] ^ 255])], 1, torn_at + 60)
    second = open_at(file, START)
    assert len(bodies(second)) == 1 and second.position == torn_at
    second.append(note(4, 100))
    assert bodies(open_at(file, START)) == [note(1, 100), note(4, 100)]


@pytest.mark.parametrize("at", range(0, FRAME_SIZE + 88 + 40, 5))
def test_a_flipped_bit_anywhere_ends_the_scan_before_the_frame(at: int) -> None:
    file = new_file()
    journal = open_at(file, START)
    journal.append(note(1, 40))
    second = journal.mark()
    journal.append(note(2, 40))
    byte = bytearray(1)
    file.read(byte, second.position + at)
    file.write([bytes([byte[0] ^ 16])], 1, second.position + at)
    again = open_at(file, START)
    assert bodies(again) == [note(1, 40)] and again.mark() == second


@given(st.binary(max_size=300), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_at_the_end_are_no_frame(junk: bytes, at: int) -> None:
    file = new_file()
    journal = open_at(file, START)
    journal.append(note(1, 10))
    end = journal.mark()
    file.write([junk], len(junk), end.position + at)
    again = open_at(file, START)
    assert bodies(again) == [note(1, 10)] and again.mark() == end


def test_a_full_ring_refuses_rather_than_overwrite() -> None:
    journal = open_at(new_file(), START)
    with pytest.raises(JournalFull):
        for _ in range(100):
            journal.append(note(1, 1000))
    assert journal.used <= SIZE


def test_zeros_are_written_ahead_and_never_over_records() -> None:
    file = SimulatedBackend(random.Random(0)).file("journal")
    prewrite_all(file, 8 << 20)
    journal = Journal(file, IDENTITY, 64 << 20, START)
    prepared = journal.prepare()
    assert prepared is not None
    begin, end = prepared
    assert journal.boundary == begin >= 8 << 20
    journal.append(note(1, 100))
    journal.prewrite(begin, end)
    journal.prepared(end)
    assert file.size() == end and journal.boundary > end
    assert bodies(Journal(file, IDENTITY, 64 << 20, START)) == [note(1, 100)]


def test_marks_are_dropped_behind_the_tail() -> None:
    journal = open_at(new_file(), START)
    for number in range(30):
        journal.append(note(number, 1000))
    mark = journal.mark_before(10_000)
    assert 8_000 < mark.position <= 10_000
    journal.trim(mark)
    assert journal.tail == mark.position and journal.mark_before(0).position == mark.position
