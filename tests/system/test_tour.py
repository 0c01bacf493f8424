"""The README's tour, line by line as a newcomer would paste it, and the promises around it."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.local import ROOT, STORE, LocalCluster

HELP_MAX_S = 0.4
MOUNT = Path("/mnt/book")


def tour() -> list[str]:
    """The lines of the fenced block under the heading `A tour`."""
    text = (ROOT / "README.md").read_text()
    match = re.search(r"^## A tour$.*?^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1].splitlines()


def test_tour_is_short() -> None:
    assert 5 <= len(tour()) <= 10


def test_every_line_of_the_tour_works(idle_cluster: LocalCluster, tmp_path: Path, need: Callable[..., None]) -> None:
    """In a directory that looks like the checkout after `make up`: sources, environment, ./var."""
    need("nbdfuse", "losetup", "mkfs.ext4")
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("the tour mounts a volume: needs root and /dev/fuse")
    if MOUNT.is_mount():
        pytest.skip(f"{MOUNT} is in use")
    idle_cluster.start()
    for name in ("README.md", "ARCHITECTURE.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(STORE.parents[1])
    (tmp_path / "var").symlink_to(idle_cluster.directory)
    environment = {**os.environ, "STORE_RUN": str(idle_cluster.directory / "run")}
    environment.pop("STORE_CONFIG", None)
    existed = MOUNT.exists()
    said = paste(tour(), tmp_path, environment)
    assert "health: well" in said and "hello, whoever reads this" in said and "README.md" in said
    if not existed:
        MOUNT.rmdir()


def paste(lines: list[str], directory: Path, environment: dict[str, str]) -> str:
    """One shell for all lines, as a terminal is; the first that fails is named."""
    script = "".join(f"{line} || {{ echo FAILED AT LINE {number}; exit 1; }}\n" for number, line in enumerate(lines, 1))
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_help_is_there_at_once() -> None:
    """The best of three: other tests' leftovers must not decide."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([STORE, "--help"], capture_output=True, check=True)
        took.append(time.monotonic() - began)
        assert b"store status" in done.stdout
    assert min(took) < HELP_MAX_S


@pytest.mark.parametrize(
    "command",
    [
        "up", "status", "device ls", "pool create", "pool ls", "pool rm", "write", "read", "delete", "stat", "locate",
        "ls", "image create", "image ls", "image info", "image resize", "image rm", "nbd", "attach", "detach", "master",
        "file-store", "mem-store", "ca init", "ca issue", "join", "bench",
    ],
)  # fmt: skip
def test_every_command_explains_itself(command: str) -> None:
    done = subprocess.run([STORE, *command.split(), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"Usage: store {command}" in done.stdout
    assert done.stderr == ""
