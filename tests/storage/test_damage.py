"""Bits turn over behind the daemon's back: what is read afterwards is right, or refused. Never wrong, never zeros."""

import random

import pytest

from daemon.core.saved import Base
from daemon.storage.check import check
from daemon.storage.creation import make
from daemon.storage.disk import Disk
from daemon.storage.syncers import DiskFailed
from store.errors import ConfigError, Status
from store.ids import DeviceId, GroupId
from store.limits import BLOCK
from store.wire.header import Op
from tests.storage import model
from tests.storage.conftest import settle
from tests.storage.simulated import SimulatedBackend

GROUP = GroupId(65536)
RING = 512 * 1024


def filled(seed: int) -> tuple[SimulatedBackend, list[dict[bytes, bytes]]]:
    """A stopped disk with a base and a tail, and the states that it went through."""
    rng = random.Random(seed)
    backend = SimulatedBackend(rng)
    make(backend, cluster=b"c" * 16, device=DeviceId(b"d" * 16), journal_size=RING, capacity=0)
    disk = Disk.open(backend).disk
    objects: model.Objects = {}
    states: list[dict[bytes, bytes]] = [{}]
    for n in range(1, 31):
        payload = rng.randbytes(rng.choice((BLOCK, 3 * BLOCK, 700)))
        name = rng.choice((b"a", b"b", b"c"))
        entry = model.make_entry(
            GROUP, n, Op.WRITE, name, payload, offset=rng.choice((0, BLOCK, 5 * BLOCK)), prev_epoch=int(n > 1)
        )
        disk.append([entry])
        disk.apply(entry)
        model.apply(objects, entry, payload)
        states.append({key: bytes(held.content) for key, held in objects.items()})
        if n == 20:
            disk.freeze()
            disk.checkpoint({GROUP: Base(20, 1, b"")}, lambda: None)
            settle(disk)
    disk.close()
    return backend.killed(), states


def look(backend: SimulatedBackend, states: list[dict[bytes, bytes]]) -> tuple[str, int]:
    """Open, apply the tail, read everything. Any answer must be of the state that the log says, or a refusal."""
    try:
        opened = Disk.open(backend)
        saved = opened.groups.get(GROUP)
        reached = 0
        if saved is not None:
            reached = saved.base.n + len(saved.tail)
            for entry in saved.tail:
                opened.disk.apply(entry)
    except (ConfigError, DiskFailed) as error:
        return (f"refused: {error}", 0)
    assert opened.clean == (reached == 30) or not opened.lossless
    damaged = 0
    for name, content in states[reached].items():
        for offset in range(0, len(content), BLOCK):
            expected = content[offset : offset + BLOCK]
            view = memoryview(bytearray(BLOCK))
            answer = opened.disk.read(GROUP, name, offset, [view])
            if answer is None:
                continue
            if answer[0] == Status.DAMAGED:
                damaged += 1
            else:
                assert answer[0] == Status.OK and view[: len(expected)] == expected, "wrong bytes"
    return ("clean" if opened.clean else "lossy", damaged)


@pytest.mark.parametrize("name", ["data", "sums", "journal"])
def test_a_flipped_bit_in_a_file(name: str) -> None:
    outcomes = []
    for seed in range(60):
        backend, states = filled(seed % 5)
        backend.files[name].flip(random.Random(seed), first=64 if name == "sums" else BLOCK)
        outcomes.append(look(backend, states))
    if name == "journal":
        assert any(kind == "lossy" or kind.startswith("refused") for kind, _ in outcomes)
    else:
        assert any(damaged for _, damaged in outcomes)


def test_a_flipped_bit_in_the_index() -> None:
    outcomes = []
    for seed in range(300):
        backend, states = filled(seed % 3)
        content = bytearray(backend.database)
        bit = random.Random(seed).randrange(len(content) * 8)
        content[bit >> 3] ^= 1 << (bit & 7)
        backend.database = bytes(content)
        outcomes.append(look_at_index(backend, states))
    assert any(outcome.startswith("refused") for outcome in outcomes)


def look_at_index(backend: SimulatedBackend, states: list[dict[bytes, bytes]]) -> str:
    try:
        return look(backend, states)[0]
    except AssertionError as error:
        if "wrong bytes" in str(error):
            raise
        return "missing"  # a row that cannot be found any more; the offline check says so


def test_a_page_of_checksums_that_reads_as_zeros_is_damage_and_not_a_hole() -> None:
    backend, states = filled(1)
    sums = backend.files["sums"]
    sums.write([bytes(sums.size())], sums.size(), 0)
    kind, damaged = look(backend, states)
    assert kind == "clean" and damaged > 0


def test_the_offline_check_names_the_bad_block() -> None:
    backend, _ = filled(2)
    data = backend.files["data"]
    byte = bytearray(1)
    data.read(byte, 17)
    data.write([bytes([byte[0] ^ 1])], 1, 17)
    problems = check(backend).problems
    assert len(problems) == 1 and "block 0 is bad" in problems[0]


def test_a_whole_write_heals_a_damaged_block_and_a_partial_one_does_not() -> None:
    backend, _ = filled(2)
    data = backend.files["data"]
    for offset in range(0, data.size(), BLOCK):
        data.write([b"\xff"], 1, offset + 9)
    opened = Disk.open(backend)
    disk = opened.disk
    view = memoryview(bytearray(BLOCK))
    for name in (b"a", b"b", b"c"):
        answer = disk.read(GROUP, name, 0, [view])
        assert answer is not None
        if answer[0] == Status.DAMAGED:
            break
    else:
        pytest.fail("nothing is damaged")
    part = model.make_entry(GROUP, 31, Op.WRITE, name, b"part", prev_epoch=1)
    whole = model.make_entry(GROUP, 32, Op.WRITE, name, b"w" * BLOCK, prev_epoch=1)
    disk.append([part, whole])
    disk.apply(part)
    for _ in range(2):
        answer = disk.read(GROUP, name, 0, [view])
        assert answer is not None and answer[0] == Status.DAMAGED
        disk.freeze()
        disk.checkpoint({GROUP: Base(31, 1, b"")}, lambda: None)
        settle(disk)
    disk.apply(whole)
    answer = disk.read(GROUP, name, 0, [view])
    assert answer is not None and answer[0] == Status.OK and view == b"w" * BLOCK
