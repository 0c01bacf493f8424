"""Fixtures of the tests that start real processes."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import Processes
from tests.system.local import PORTS, LocalCluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory is a system test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.fixture
def idle_cluster(processes: Processes, tmp_path: Path, free_ports: Callable[[int], int]) -> Iterator[LocalCluster]:
    """A cluster that is not started yet. Attachments of the test are undone at its end."""
    cluster = LocalCluster(processes, tmp_path / "cluster", free_ports(PORTS))
    yield cluster
    undo_attachments(cluster)


@pytest.fixture
def cluster(idle_cluster: LocalCluster) -> LocalCluster:
    """A cluster of three daemons, three copies, ready."""
    idle_cluster.start()
    return idle_cluster


@pytest.fixture
def need() -> Callable[..., None]:
    """`need("fio", …)`: skips the test, aloud, where a program is missing."""

    def check(*programs: str) -> None:
        missing = [program for program in programs if shutil.which(program) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)} (tools/setup test installs it)")

    return check


def undo_attachments(cluster: LocalCluster) -> None:
    """What a failed test left mounted would keep its directory and its processes for ever."""
    for record in (cluster.directory / "run" / "attached").glob("*/*"):
        for mount in reversed(mounts_below(cluster.directory.parent)):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        for device in loops_below(record):
            subprocess.run(["losetup", "-d", device], check=False, capture_output=True)


def mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(f"{directory}/")]


def loops_below(directory: Path) -> list[str]:
    """Loop devices whose file lies there."""
    return [
        f"/dev/{loop.name}"
        for loop in Path("/sys/block").glob("loop*")
        if (loop / "loop/backing_file").exists()
        and (loop / "loop/backing_file").read_text().startswith(f"{directory}/")
    ]
