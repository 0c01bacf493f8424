"""The main job: a real ext4 file system on an image, real books in it, while one of three daemons is killed."""

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import wait_for
from tests.system.local import LocalCluster

SMALL_FILES = 2000
PDF_PLACES = ("/usr/share/pari/doc", "/usr/share/doc/gnuplot")
MIB = 1 << 20


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, f"{command}: {done}"
    return done.stdout


def digests(directory: Path) -> dict[str, str]:
    """Checksum of every file below, read without the page cache of this mount if it is new."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def books() -> list[Path]:
    found = [path for place in PDF_PLACES for path in sorted(Path(place).glob("*.pdf"))]
    if not found:
        pytest.skip(f"no PDFs in {' or '.join(PDF_PLACES)} (packages pari-doc, gnuplot-doc)")
    return found


def make_tree(directory: Path) -> None:
    """Many small files of all sizes up to 8 KiB, in directories of a hundred."""
    for number in range(SMALL_FILES):
        folder = directory / f"{number // 100:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_bytes(hashlib.sha256(str(number).encode()).digest() * (number % 257))


def test_books_survive_the_loss_of_a_daemon(
    cluster: LocalCluster, tmp_path: Path, need: Callable[..., None], as_root: None
) -> None:
    """nbdfuse + loop: mkfs, mount, copy, kill -9 in the middle, unmount, fsck, mount, compare, render."""
    need("nbdfuse", "losetup", "fusermount3", "mkfs.ext4", "e2fsck", "pdftoppm")
    tree, mount = tmp_path / "tree", tmp_path / "mnt"
    make_tree(tree)
    cluster.store("image", "create", "book", "--size", "2G")
    cluster.store("attach", "book", "--via", "fuse", "--mkfs", "ext4", "--mount", mount)
    for book in books():
        shutil.copy(book, tree)
    expected = digests(tree)
    copying = threading.Thread(target=shutil.copytree, args=(tree, mount / "tree"))
    copying.start()
    wait_for(lambda: len(list((mount / "tree").glob("*"))) > 5, 60, "the copy under way")
    cluster.kill("daemon2")
    copying.join(120)
    assert not copying.is_alive(), cluster.logs()
    run("sync", "-f", mount)
    cluster.store("detach", "book")

    device = cluster.store("attach", "book", "--via", "fuse").stdout.decode().strip()
    run("e2fsck", "-fn", device)  # exit code 0: clean
    cluster.store("detach", "book")
    cluster.store("attach", "book", "--via", "fuse", "--mount", mount)
    assert digests(mount / "tree") == expected
    render(sorted((mount / "tree").glob("*.pdf")), tmp_path / "pages")
    cluster.store("detach", "book")
    cluster.await_well()


def render(pdfs: list[Path], pages: Path) -> None:
    """A reader's proof: pages come out of the books on the volume."""
    pages.mkdir()
    for book in pdfs[:4]:
        run("pdftoppm", "-r", "40", "-f", "1", "-l", "3", "-png", book, pages / book.stem)
    images = list(pages.glob("*.png"))
    assert len(images) >= 4 and all(image.stat().st_size > 500 for image in images)


def test_space_comes_back_after_fstrim(
    cluster: LocalCluster, tmp_path: Path, need: Callable[..., None], as_root: None
) -> None:
    need("nbdfuse", "losetup", "fusermount3", "mkfs.ext4", "fstrim")
    mount = tmp_path / "mnt"
    cluster.store("image", "create", "scratch", "--size", "1G")
    cluster.store("attach", "scratch", "--via", "fuse", "--mkfs", "ext4", "--mount", mount)
    empty = stored(cluster)
    with (mount / "big").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    wait_for(lambda: stored(cluster) > empty + 3 * 60 * MIB, 30, "64 MiB on three devices")
    (mount / "big").unlink()
    run("sync", "-f", mount)
    run("fstrim", mount)
    wait_for(lambda: stored(cluster) < empty + 3 * 4 * MIB, 30, "the space back")
    cluster.store("detach", "scratch")


def test_empty_image_takes_nothing(cluster: LocalCluster) -> None:
    """100 GiB that nobody wrote to: less than 2 MiB on all disks, by their own count and by the file system's."""
    before, blocks = stored(cluster), on_disk(cluster)
    cluster.store("image", "create", "empty", "--size", "100G")
    assert run("nbdinfo", "--size", cluster.uri("empty")).strip() == str(100 << 30)
    assert stored(cluster) - before < 2 * MIB
    assert on_disk(cluster) - blocks < 2 * MIB


def stored(cluster: LocalCluster) -> int:
    """Bytes that all devices say they use."""
    return sum(int(device["used"]) for device in cluster.json("device", "ls"))


def on_disk(cluster: LocalCluster) -> int:
    """Bytes that the daemons' directories take on the file system, journals included."""
    paths = [path for number in (1, 2, 3) for path in (cluster.directory / f"daemon{number}").rglob("*")]
    return sum(path.lstat().st_blocks * 512 for path in paths if path.is_file())
