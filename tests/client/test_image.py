"""The image core against a cluster that loses unstable writes, answers late and in any order, or not at all.

`Cluster` applies each request when it is delivered. A power cut takes every group back to what was synced and gives it
another verifier. The checker knows, per block, which contents a reader may see: those acknowledged last, and those of
writes whose outcome is unknown. After a successful flush, what was acknowledged before it must survive any power cut.
"""

import random
from collections.abc import Iterator

import pytest

from store.client.image import Change, Flush, FlushJob, ImageCore, ResendJob
from store.ids import GroupId
from store.limits import BLOCK

GROUPS = 3
BLOCKS = 12
Content = bytes


class Cluster:
    """Groups of blocks; block b lies in group b % GROUPS. Contents are whole blocks."""

    def __init__(self) -> None:
        self.now: dict[int, Content] = {}
        self.synced: dict[int, Content] = {}
        self.verifier = dict.fromkeys(range(GROUPS), 1)

    def write(self, block: int, content: Content, durable: bool) -> int:
        self.now[block] = content
        if durable:
            self.flush(block % GROUPS)
        return self.verifier[block % GROUPS]

    def flush(self, group: int) -> int:
        for block in range(group, BLOCKS, GROUPS):
            if block in self.now:
                self.synced[block] = self.now[block]
        return self.verifier[group]

    def power_cut(self, rng: random.Random) -> None:
        """Whatever was not synced may be gone, all of a group's tail from some point on: here all or nothing."""
        for group in range(GROUPS):
            if rng.random() < 0.5:
                self.flush(group)
            for block in range(group, BLOCKS, GROUPS):
                self.now.pop(block, None)
                if block in self.synced:
                    self.now[block] = self.synced[block]
            self.verifier[group] += 1


class Machine:
    """A program on the image: changes and flushes at random, delivered at random, and the checker."""

    def __init__(
        self, seed: int, compare_verifier: bool = True, own_reads: bool = True, count_overwritten: bool = True
    ) -> None:
        self.rng = random.Random(seed)
        self.compare_verifier, self.own_reads = compare_verifier, own_reads
        self.count_overwritten = count_overwritten
        self.core, self.cluster = ImageCore(), Cluster()
        self.flying: list[tuple[Change | FlushJob | ResendJob, int]] = []  # and the verifier, once delivered
        self.flushes: list[tuple[Flush, dict[int, int]]] = []
        self.acknowledged: dict[int, int] = {}  # block -> number of the newest acknowledged write
        self.durable: dict[int, int] = {}  # block -> number that a finished flush or durable write covers
        self.numbers = 0

    def content(self, number: int) -> Content:
        return number.to_bytes(4, "little") * (BLOCK // 4)

    def number(self, content: Content | None) -> int:
        return 0 if content is None else int.from_bytes(content[:4], "little")

    def step(self) -> None:
        action = self.rng.choice(("write", "write", "write", "deliver", "deliver", "answer", "answer", "flush", "read"))
        if action == "write" and len(self.flying) < 8:
            self.begin_write()
        elif action == "deliver":
            self.deliver()
        elif action == "answer":
            self.answer()
        elif action == "flush" and len(self.flushes) < 3:
            self.flushes.append((self.core.begin_flush(), dict(self.acknowledged)))
        elif action == "read":
            self.read(self.rng.randrange(BLOCKS))
        self.serve_flushes()

    def begin_write(self) -> None:
        self.numbers += 1
        block = self.rng.randrange(BLOCKS)
        durable = self.rng.random() < 0.15
        change = Change(GroupId(block % GROUPS), block * BLOCK, BLOCK, self.content(self.numbers), durable)
        if self.core.admit(change):
            self.flying.append((change, 0))

    def fly(self, admitted: list[Change]) -> None:
        self.flying += [(change, 0) for change in admitted]

    def deliver(self) -> None:
        """Something that flies takes effect; its answer comes later."""
        waiting = [place for place, (_, verifier) in enumerate(self.flying) if not verifier]
        if not waiting:
            return
        place = self.rng.choice(waiting)
        sent = self.flying[place][0]
        if isinstance(sent, FlushJob):
            verifier = self.cluster.flush(sent.group)
        elif isinstance(sent, Change):
            assert sent.data is not None
            verifier = self.cluster.write(sent.offset // BLOCK, bytes(sent.data), sent.durable)
        else:
            verifier = 0
            for offset, run in sent.runs:
                verifier = self.cluster.write(offset // BLOCK, bytes(run), False)
        self.flying[place] = (sent, verifier)

    def answer(self) -> None:
        answered = [place for place, (_, verifier) in enumerate(self.flying) if verifier]
        if not answered:
            return
        sent, verifier = self.flying.pop(self.rng.choice(answered))
        if isinstance(sent, FlushJob):
            self.answer_flush(sent, verifier)
        elif isinstance(sent, ResendJob):
            self.fly(self.core.resent(sent, {verifier}))
        else:
            self.fly(self.core.acknowledged(sent, verifier))
            assert sent.data is not None
            block, number = sent.offset // BLOCK, self.number(bytes(sent.data))
            self.acknowledged[block] = number
            if sent.durable:
                self.durable[block] = number

    def answer_flush(self, job: FlushJob, verifier: int) -> None:
        if not self.compare_verifier:
            for kept in self.core.kept.by_group.get(job.group, {}):
                if kept.stamp <= job.stamp:
                    kept.verifier = verifier
            job.verifiers = frozenset({verifier})
        if not self.count_overwritten:
            left = self.core.kept.by_group.get(job.group, {})
            job.verifiers = frozenset(kept.verifier for kept in left if kept.stamp <= job.stamp)
        self.core.flushed(job, verifier)

    def serve_flushes(self) -> None:
        for flush, covered in list(self.flushes):
            if self.core.flush_done(flush):
                self.flushes.remove((flush, covered))
                for block, number in covered.items():
                    self.durable[block] = max(self.durable.get(block, 0), number)
            else:
                self.flying += [(job, 0) for job in self.core.jobs(flush, 4)]

    def power_cut(self) -> None:
        """What flies has been delivered before, or is delivered after; answers that fly still arrive."""
        self.cluster.power_cut(self.rng)

    def read(self, block: int) -> None:
        content = self.cluster.now.get(block)
        if self.own_reads:
            for patch in self.core.kept.patches(block * BLOCK, BLOCK):
                content = bytes(patch.data)
        assert self.number(content) >= self.acknowledged.get(block, 0), f"block {block}: an acknowledged write vanished"

    def finish(self) -> None:
        """Everything that flies is answered; then a last flush ends as well."""
        self.settle()
        self.flushes.append((self.core.begin_flush(), dict(self.acknowledged)))
        self.settle()

    def settle(self) -> None:
        for _ in range(2000):
            self.serve_flushes()
            if not self.flying and not self.flushes:
                return
            self.deliver()
            self.answer()
        raise AssertionError("a flush or change never ends")

    def check_durable(self) -> None:
        for block, number in self.durable.items():
            assert self.number(self.cluster.synced.get(block)) >= number, f"block {block}: flushed, not durable"


def run(seed: int, **broken: bool) -> Machine:
    machine = Machine(seed, **broken)
    for _ in range(machine.rng.randrange(40, 160)):
        machine.step()
        if machine.rng.random() < 0.03:
            machine.power_cut()
        machine.check_durable()
    machine.finish()
    machine.check_durable()
    return machine


@pytest.mark.parametrize("block", range(8))
def test_nothing_flushed_is_lost_and_nothing_acknowledged_vanishes(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        machine = run(seed)
        assert machine.core.kept.bytes == 0 and machine.core.in_flight_bytes == 0


def caught(seeds: int = 200, **broken: bool) -> int:
    failures = 0
    for seed in range(seeds):
        try:
            run(seed, **broken)
        except AssertionError:
            failures += 1
    return failures


def test_canary_a_flush_that_ignores_the_verifier_is_caught() -> None:
    assert caught(compare_verifier=False) > 10


def test_canary_a_client_that_does_not_answer_from_what_it_keeps_is_caught() -> None:
    assert caught(own_reads=False) > 10


def test_canary_a_flush_that_forgets_what_was_overwritten_meanwhile_is_caught() -> None:
    assert caught(seeds=1000, count_overwritten=False) > 0


def change(core: ImageCore, block: int, blocks: int = 1) -> Change:
    return Change(GroupId(0), block * BLOCK, blocks * BLOCK, bytes(blocks * BLOCK), False)


def test_overlapping_changes_go_one_after_the_other_in_order() -> None:
    core = ImageCore()
    first, second, third, other = (change(core, *place) for place in ((0, 2), (1, 2), (2, 1), (5, 1)))
    assert core.admit(first)
    assert not core.admit(second)
    assert not core.admit(third)  # free of `first`, but it came after `second`
    assert core.admit(other)
    assert core.acknowledged(first, 1) == [second]
    assert core.failed(second) == [third]
    assert core.acknowledged(third, 1) == []


def test_abandoning_a_waiting_change_lets_the_next_one_go() -> None:
    core = ImageCore()
    first, second, third = change(core, 0), change(core, 0, 2), change(core, 1)
    assert core.admit(first) and not core.admit(second) and not core.admit(third)
    assert core.abandon(second) == [third]


def test_memory_is_bounded() -> None:
    core = ImageCore(kept_soft=4 * BLOCK, kept_max=8 * BLOCK)
    for block in range(8):
        assert core.room(BLOCK)
        one = change(core, block)
        assert core.admit(one)
        core.acknowledged(one, 1)
        assert core.should_flush == (block >= 3)
    assert not core.room(1)
    flush = core.begin_flush()
    (job,) = core.jobs(flush, 10)
    assert isinstance(job, FlushJob)
    core.flushed(job, 1)
    assert core.flush_done(flush) and core.room(8 * BLOCK)


def test_two_flushes_share_one_request() -> None:
    core = ImageCore()
    one = change(core, 0)
    assert core.admit(one)
    core.acknowledged(one, 1)
    first, second = core.begin_flush(), core.begin_flush()
    (job,) = core.jobs(first, 10)
    assert core.jobs(second, 10) == []
    assert isinstance(job, FlushJob)
    core.flushed(job, 1)
    assert core.flush_done(first) and core.flush_done(second)


def test_a_failed_flush_is_taken_up_by_the_next_caller() -> None:
    core = ImageCore()
    one = change(core, 0)
    assert core.admit(one)
    core.acknowledged(one, 1)
    first, second = core.begin_flush(), core.begin_flush()
    (job,) = core.jobs(first, 10)
    assert isinstance(job, FlushJob)
    core.flush_failed(job)
    assert len(core.jobs(second, 10)) == 1


def every_run(job: ResendJob) -> Iterator[tuple[int, bytes]]:
    for offset, run_of in job.runs:
        yield offset, bytes(run_of)


def test_a_lost_write_that_was_overwritten_in_part_is_sent_again_only_where_it_is_newest() -> None:
    core = ImageCore()
    wide = Change(GroupId(0), 0, 4 * BLOCK, b"w" * 4 * BLOCK, False)
    assert core.admit(wide)
    core.acknowledged(wide, 1)
    narrow = Change(GroupId(0), BLOCK, BLOCK, b"n" * BLOCK, False)
    assert core.admit(narrow)
    core.acknowledged(narrow, 2)
    flush = core.begin_flush()
    (job,) = core.jobs(flush, 10)
    assert isinstance(job, FlushJob)
    core.flushed(job, 2)
    assert not core.flush_done(flush)
    (again,) = core.jobs(flush, 10)
    assert isinstance(again, ResendJob)
    assert list(every_run(again)) == [(0, b"w" * BLOCK), (2 * BLOCK, b"w" * 2 * BLOCK)]
    core.resent(again, {2})
    (last,) = core.jobs(flush, 10)
    assert isinstance(last, FlushJob)
    core.flushed(last, 2)
    assert core.flush_done(flush)
