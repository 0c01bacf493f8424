"""Rules of the format taken away one at a time: the lives must notice, or they prove nothing."""

from typing import Any

import pytest

from daemon.core.saved import Base
from daemon.storage import checkpoint as checkpoints
from daemon.storage.checkpoint import Checkpoint, Phase
from daemon.storage.disk import Disk
from daemon.storage.retention import Retention
from daemon.storage.syncers import DiskFailed
from tests.storage.lifecycle import Life

SEEDS = 400


def no_images(self: Checkpoint) -> None:
    self._operations.merged.clear()


def no_base_records(self: Checkpoint, bases: dict[Any, Base]) -> None:
    self.phase = Phase.ANNOUNCED
    self._bases = bases


def no_refusals(*_: object) -> bytes:
    return b""


def no_sync_before_apply(self: Disk, bases: dict[Any, Base], on_done: Any) -> None:
    self._after_checkpoint = on_done

    def announce_and_start() -> None:
        self._checkpoint.announce(bases)
        self._checkpoint.start()

    self.sync(announce_and_start)


def trim_before_the_index_knows(self: Retention) -> None:
    self._journal.trim(self._journal.mark_before(min(self._released, self.checkpointed)))


@pytest.mark.parametrize(
    ("place", "name", "variant"),
    [
        (Checkpoint, "spill", no_images),
        (Checkpoint, "announce", no_base_records),
        (checkpoints, "_bitmap", no_refusals),
        (Disk, "checkpoint", no_sync_before_apply),
        (Retention, "trim", trim_before_the_index_knows),
    ],
)
def test_a_disk_without_this_rule_is_caught(
    place: object, name: str, variant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, variant)
    for seed in range(SEEDS):
        try:
            life = Life(seed)
            for _ in range(4):
                life.run(60)
        except (AssertionError, DiskFailed, LookupError):
            return
    pytest.fail("nothing noticed")
