"""An nbdkit Python plugin that keeps one disk in memory: what the plugin interface alone costs, for `make bench`."""

import nbdkit

API_VERSION = 2
SIZE = 256 << 20

disk = bytearray()


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def get_ready() -> None:
    disk.extend(bytes(SIZE))


def open(readonly: bool) -> int:
    return 1


def get_size(handle: int) -> int:
    return SIZE


def can_multi_conn(handle: int) -> bool:
    return True


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    buffer[:] = disk[offset : offset + len(buffer)]


def pwrite(handle: int, buffer: bytes, offset: int, flags: int) -> None:
    disk[offset : offset + len(buffer)] = buffer


def flush(handle: int, flags: int) -> None:
    return None
