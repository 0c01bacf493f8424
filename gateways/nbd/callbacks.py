"""nbdkit's callbacks (nbdkit-python-plugin(3), API 2). Each one is a line or two: what they do is in export.py.

Threads: nbdkit calls from a pool of its own, several at a time, and takes away what a thread keeps in threading.local
after each call. So nothing is kept per thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from gateways.nbd.export import BLOCK_SIZES, Export, Gateway, errno_of
from gateways.nbd.host import nbdkit
from gateways.nbd.settings import Settings
from store.errors import ConfigError, StoreError
from store.logs import configure_log

API_VERSION = 2

_host = nbdkit()
_settings = Settings()
_gateway = Gateway(_settings)
_EXTENT = {False: 0, True: _host.EXTENT_HOLE | _host.EXTENT_ZERO}


@contextmanager
def _errors() -> Iterator[None]:
    """Tells nbdkit the errno before the exception gets there."""
    try:
        yield
    except (OSError, StoreError, ConfigError) as error:
        _host.set_error(errno_of(error))
        raise


def config(key: str, value: str) -> None:
    _settings.put(key, value)


def config_complete() -> None:
    _settings.check()


def thread_model() -> int:
    return _host.THREAD_MODEL_PARALLEL


def after_fork() -> None:
    """The first place from which threads survive."""
    configure_log()
    _gateway.start()


def cleanup() -> None:
    _gateway.stop()


def list_exports(readonly: bool, is_tls: bool) -> list[tuple[str, str]]:
    return _gateway.exports()


def default_export(readonly: bool, is_tls: bool) -> str:
    return _gateway.default_export()


def open(readonly: bool) -> Export:
    with _errors():
        return _gateway.open(_host.export_name(), readonly)


def close(handle: Export) -> None:
    _gateway.close(handle)


def export_description(handle: Export) -> str:
    return f"image {handle.name}"


def get_size(handle: Export) -> int:
    return handle.size


def block_size(handle: Export) -> tuple[int, int, int]:
    return BLOCK_SIZES


def is_rotational(handle: Export) -> bool:
    return False


def can_multi_conn(handle: Export) -> bool:
    return True


def can_write(handle: Export) -> bool:
    return not handle.readonly


def can_flush(handle: Export) -> bool:
    return True


def can_trim(handle: Export) -> bool:
    return True


def can_zero(handle: Export) -> bool:
    return True


def can_fast_zero(handle: Export) -> bool:
    return True


def can_fua(handle: Export) -> int:
    return _host.FUA_NATIVE


def can_cache(handle: Export) -> int:
    """nbdkit reads and drops: the daemons then have it in memory."""
    return _host.CACHE_EMULATE


def can_extents(handle: Export) -> bool:
    return True


def pread(handle: Export, buffer: memoryview, offset: int, flags: int) -> None:
    try:
        handle.pread(memoryview(buffer), offset)
    except OSError as error:
        _host.set_error(errno_of(error))
        raise


def pwrite(handle: Export, buffer: memoryview, offset: int, flags: int) -> None:
    try:
        handle.pwrite(memoryview(buffer), offset, bool(flags & _host.FLAG_FUA))
    except OSError as error:
        _host.set_error(errno_of(error))
        raise


def flush(handle: Export, flags: int) -> None:
    with _errors():
        handle.flush()


def trim(handle: Export, count: int, offset: int, flags: int) -> None:
    with _errors():
        handle.clear(count, offset)


def zero(handle: Export, count: int, offset: int, flags: int) -> None:
    with _errors():
        handle.clear(count, offset)


def extents(handle: Export, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    with _errors():
        return [(extent.offset, extent.length, _EXTENT[extent.hole]) for extent in handle.extents(count, offset)]
