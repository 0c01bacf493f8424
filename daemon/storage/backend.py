"""What a disk needs of the operating system: files, a lock, a boot id, syncs and one background thread.

`PosixBackend` is the real one. The tests have another that loses and tears what was not synced. A failed sync or
write leaves unknown what is on the disk, so it ends the process (`DiskFailed`): trying again would report success for
pages that the kernel has already dropped.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Final, Protocol

from daemon.storage.syncers import DiskFailed, Syncer, open_syncer
from store.errors import ConfigError

HEAD_SIZE: Final = 64
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
# Errors of a read with RWF_NOWAIT that mean: this file system cannot tell, read it the slow way.
NO_NOWAIT: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL})

View = memoryview | bytearray
Source = memoryview | bytearray | bytes


class File(Protocol):
    """A file opened for reading and writing. Offsets and sizes are in bytes."""

    def write(self, views: Sequence[Source], size: int, offset: int) -> None:
        """Write all `size` bytes of the views. OSError only for ENOSPC and EDQUOT; anything else is DiskFailed."""

    def read(self, view: View, offset: int) -> int:
        """Fill the view; fewer bytes only at the end of the file. OSError when the medium fails."""

    def read_now(self, view: View, offset: int) -> int:
        """As `read`, but only what is in memory: BlockingIOError or a short count when the rest is not."""

    def sync(self) -> None:
        """Make everything written so far durable, or DiskFailed."""

    def punch(self, offset: int, size: int) -> None:
        """Give the range back to the file system; it reads as zeros. Best effort."""

    def size(self) -> int: ...

    def allocated(self) -> int:
        """Bytes that the file takes on the disk."""

    def close(self) -> None: ...


class Backend(Protocol):
    def lock(self) -> None:
        """Take the directory for this process. ConfigError when another has it or it cannot be used."""

    def file(self, name: str) -> File: ...

    def load(self, name: str) -> bytes | None:
        """A small file's content, or None."""

    def store(self, name: str, content: bytes) -> None:
        """Replace a small file durably and atomically."""

    def remove(self, name: str) -> None:
        """Remove a small file durably; nothing happens if it is not there."""

    def connect(self, *, write: bool) -> sqlite3.Connection:
        """The index database."""

    def head(self, key: str) -> mmap.mmap | bytearray:
        """`HEAD_SIZE` bytes that outlive this process but not the boot; zeros when new."""

    def boot_id(self) -> str: ...

    def fresh_id(self) -> bytes:
        """16 random bytes."""

    def free(self) -> int:
        """Bytes that the file system would still give this process."""

    def syncer(self, file: File) -> Syncer: ...

    def start(self, job: Callable[[], None]) -> None:
        """Run the job in the background; at most one at a time."""

    def job_finished(self) -> bool:
        """Whether the job started last has ended since; an exception of the job is raised here."""

    def fileno(self) -> int:
        """Readable when `job_finished` or a syncer's `finished` has news."""

    def settle(self) -> None:
        """Clear the news that made `fileno` readable."""

    def wait(self) -> None:
        """Block until there is news."""

    def close(self) -> None: ...


def _punch_function() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return function


class PosixFile:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._path = path
        self._punch = _punch_function()
        self._nowait = True

    def fileno(self) -> int:
        return self._fd

    def write(self, views: Sequence[Source], size: int, offset: int) -> None:
        try:
            done = os.pwritev(self._fd, views, offset)
            if done != size:
                self._write_rest(b"".join(views), done, offset)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFailed(f"write to {self._path} failed: {error.strerror}; the daemon stops") from error

    def _write_rest(self, content: bytes, done: int, offset: int) -> None:
        rest = memoryview(content)
        while done < len(content):
            done += os.pwrite(self._fd, rest[done:], offset + done)

    def read(self, view: View, offset: int) -> int:
        done = os.preadv(self._fd, [view], offset)
        size = len(view)
        if done in (size, 0):
            return done
        rest = memoryview(view)
        while done < size:
            got = os.preadv(self._fd, [rest[done:]], offset + done)
            if got == 0:
                break
            done += got
        return done

    def read_now(self, view: View, offset: int) -> int:
        if not self._nowait:
            return self.read(view, offset)
        try:
            return os.preadv(self._fd, [view], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in NO_NOWAIT:
                raise
            self._nowait = False
            return self.read(view, offset)

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise DiskFailed(f"sync of {self._path} failed: {error.strerror}; the daemon stops") from error

    def punch(self, offset: int, size: int) -> None:
        if self._punch is not None:
            self._punch(self._fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        os.close(self._fd)


class PosixBackend:
    """One directory of a real file system. `runtime` is a tmpfs directory: it outlives a process, not a boot."""

    def __init__(self, directory: Path, runtime: Path = Path("/dev/shm")) -> None:
        self._directory, self._runtime = directory, runtime
        self._lock_fd = -1
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended: deque[BaseException | None] = deque()

    def lock(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot use {self._directory}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self._directory} is in use by another process; stop it first") from None

    def file(self, name: str) -> PosixFile:
        return PosixFile(self._directory / name)

    def load(self, name: str) -> bytes | None:
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def store(self, name: str, content: bytes) -> None:
        fresh = self._directory / f"{name}.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(fresh, self._directory / name)
        self._sync_directory()

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / name)
            self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            raise DiskFailed(f"sync of {self._directory} failed: {error.strerror}; the daemon stops") from error
        finally:
            os.close(fd)

    def connect(self, *, write: bool) -> sqlite3.Connection:
        path = self._directory / "index"
        mode = "rwc" if write else "ro"
        return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)

    def head(self, key: str) -> mmap.mmap | bytearray:
        try:
            fd = os.open(self._runtime / f"hyphae-{key}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # no tmpfs here: then no start but a clean one counts as lossless
            return bytearray(HEAD_SIZE)
        try:
            if os.fstat(fd).st_size != HEAD_SIZE:
                os.ftruncate(fd, HEAD_SIZE)
            return mmap.mmap(fd, HEAD_SIZE)
        finally:
            os.close(fd)

    def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def fresh_id(self) -> bytes:
        return os.urandom(16)

    def free(self) -> int:
        facts = os.statvfs(self._directory)
        return facts.f_bavail * facts.f_frsize

    def syncer(self, file: File) -> Syncer:
        assert isinstance(file, PosixFile)
        return open_syncer(file.fileno(), self._wake)

    def start(self, job: Callable[[], None]) -> None:
        Thread(target=self._run, args=(job,), name="disk", daemon=True).start()

    def _run(self, job: Callable[[], None]) -> None:
        outcome: BaseException | None = None
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - the outermost frame of the thread; raised in job_finished
            outcome = error
        self._ended.append(outcome)
        os.eventfd_write(self._wake, 1)

    def job_finished(self) -> bool:
        if not self._ended:
            return False
        outcome = self._ended.popleft()
        if outcome is not None:
            raise outcome
        return True

    def fileno(self) -> int:
        return self._wake

    def settle(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def wait(self) -> None:
        os.set_blocking(self._wake, True)
        try:
            os.eventfd_read(self._wake)
        finally:
            os.set_blocking(self._wake, False)
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        os.close(self._wake)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)


assert sys.platform == "linux", "the disk needs Linux: eventfd, fallocate, RWF_NOWAIT"
