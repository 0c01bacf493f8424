"""Both ways to sync without blocking do the same."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.storage.syncers import AioSyncer, DiskFailed, Syncer, ThreadSyncer, open_syncer

KINDS: list[Callable[[int, int], Syncer]] = [AioSyncer, ThreadSyncer]


def wait_for(wake: int) -> None:
    os.set_blocking(wake, True)
    os.eventfd_read(wake)
    os.set_blocking(wake, False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sync_ends_with_news_on_the_descriptor(kind: Callable[[int, int], Syncer], tmp_path: Path) -> None:
    fd, wake = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), os.eventfd(0, os.EFD_NONBLOCK)
    try:
        syncer = kind(fd, wake)
    except OSError as error:
        pytest.skip(f"no Linux AIO here: {error}")
    for _ in range(3):
        os.write(fd, b"x")
        syncer.submit()
        while not syncer.finished():
            wait_for(wake)
        assert not syncer.finished()
    syncer.close()
    os.close(fd)
    os.close(wake)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_sync_is_the_end(kind: Callable[[int, int], Syncer], tmp_path: Path) -> None:
    """A pipe cannot be synced: the kernel's answer stands for any failure."""
    fd, wake = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), os.eventfd(0, os.EFD_NONBLOCK)
    reading, writing = os.pipe()
    try:
        syncer = kind(fd, wake)
    except OSError as error:
        pytest.skip(f"no Linux AIO here: {error}")
    os.dup2(writing, fd)
    with pytest.raises(DiskFailed, match="the daemon stops"):
        syncer.submit()
        while not syncer.finished():
            wait_for(wake)
    for descriptor in (fd, wake, reading, writing):
        os.close(descriptor)


def test_the_thread_stands_in_where_the_kernel_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "io_setup")

    monkeypatch.setattr(AioSyncer, "__init__", refuse)
    fd, wake = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), os.eventfd(0, os.EFD_NONBLOCK)
    syncer = open_syncer(fd, wake)
    assert isinstance(syncer, ThreadSyncer)
    syncer.close()
    os.close(fd)
    os.close(wake)
