"""The log in memory."""

from __future__ import annotations

import pytest

from daemon.core.log import ABSENT, Broken, Log
from daemon.core.record import Entry


def record(n: int, epoch: int) -> Entry:
    entry = Entry()
    entry.group, entry.n, entry.epoch = 1, n, epoch
    return entry


def log_of(*epochs: int, after: tuple[int, int] = (4, 1)) -> Log:
    log = Log(*after)
    for epoch in epochs:
        log.append(record(log.last + 1, epoch))
    return log


def test_positions_and_epochs() -> None:
    log = log_of(1, 2, 2)
    assert [log.epoch_at(n) for n in range(3, 9)] == [ABSENT, 1, 1, 2, 2, ABSENT]
    assert (log.last, log.last_epoch) == (7, 2)
    assert [entry.n for entry in log.between(5, 6)] == [5, 6]
    assert log.entry(7).n == 7


def test_a_gap_is_never_taken() -> None:
    with pytest.raises(Broken, match="after 4"):
        Log(4, 1).append(record(6, 1))


def test_cutting_gives_the_head_back() -> None:
    log = log_of(1, 2, 3)
    log.cut(6)
    assert (log.last, log.last_epoch) == (5, 1)
    log.cut(5)
    assert (log.last, log.last_epoch) == (4, 1)


def test_trimming_keeps_the_version_before_the_first() -> None:
    log = log_of(1, 2, 3)
    log.trim(6)
    assert (log.after_n, log.after_epoch, [e.n for e in log.entries]) == (6, 2, [7])
    log.trim(5)
    assert log.after_n == 6
    log.trim(7)
    assert (log.last, log.last_epoch, log.epoch_at(7)) == (7, 3, 3)
