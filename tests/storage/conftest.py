"""Disks to test: a real directory, or the simulated machine."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.storage.backend import Backend, PosixBackend
from daemon.storage.creation import make
from daemon.storage.disk import Disk, Opened
from store.ids import DeviceId
from tests.storage.simulated import SimulatedBackend

CLUSTER = b"c" * 16
RING = 16 << 20


class Machine:
    """Makes backends of one directory, as successive processes would."""

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self.backend = backend
        self._disk: Disk | None = None

    def create(self, ring: int = RING, capacity: int = 0) -> None:
        make(self.backend(), cluster=CLUSTER, device=DeviceId(b"d" * 16), journal_size=ring, capacity=capacity)

    def open(self) -> Opened:
        opened = Disk.open(self.backend(), cluster=CLUSTER)
        self._disk = opened.disk
        return opened

    def stop(self) -> None:
        assert self._disk is not None
        self._disk.close()
        self._disk = None

    def kill(self) -> None:
        if self._disk is not None:
            self._disk._background.finish()
            self._disk.abandon()
            self._disk = None


def simulated_machine() -> Machine:
    world = SimulatedBackend(random.Random(1))

    def backend() -> SimulatedBackend:
        nonlocal world
        if world.locked:
            return world
        world = world.killed()
        return world

    return Machine(backend)


@pytest.fixture(params=["posix", "simulated"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A place for a disk; both kinds must pass the same tests."""
    if request.param == "posix":
        (tmp_path / "runtime").mkdir()
        made = Machine(lambda: PosixBackend(tmp_path / "disk", tmp_path / "runtime"))
    else:
        made = simulated_machine()
    yield made
    made.kill()


def settle(disk: Disk) -> None:
    """Let everything end that is under way."""
    while disk.pending or disk.working:
        disk.work()
        if disk.pending:
            disk.wait()
