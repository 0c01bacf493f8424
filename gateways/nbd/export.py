"""What the NBD gateway does, without nbdkit: connecting, exports, and the requests of an open export.

All connections to one export share one open image: what one of them wrote, the others read, and a flush on any covers
them all, which is what multi-conn promises. The image's lock is held from the first connection to the last.
"""

import errno
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from prometheus_client.core import Metric

from gateways.nbd.meter import Meter, serve
from gateways.nbd.settings import DEFAULT_POOL, Settings
from store.client.blocking import BlockingClient
from store.client.blocking_image import BlockingImage, Extent
from store.client.blocking_open import close_image, image_size, list_images, open_image
from store.client.image_lease import default_holder
from store.control.messages import Mode
from store.errors import ConfigError, StoreError
from store.limits import BLOCK, MIB

log = structlog.get_logger()

BLOCK_SIZES: Final = (1, BLOCK, 32 * MIB)  # smallest, best, largest request
_PROGRAM: Final = "nbd"


class Export:
    """One connection's view of an image; an image may have several. Methods raise OSError with a meaningful errno."""

    __slots__ = ("_image", "_meter", "name", "readonly")

    def __init__(self, name: str, image: BlockingImage, meter: Meter, readonly: bool) -> None:
        self.name, self._image, self._meter, self.readonly = name, image, meter, readonly

    @property
    def size(self) -> int:
        return self._image.size

    def pread(self, into: memoryview, offset: int) -> None:
        self._meter.begin()
        begin, failed = time.perf_counter(), 1
        try:
            self._image.read_into(offset, into)
            failed = 0
        finally:
            self._meter.end("read", len(into), time.perf_counter() - begin, failed)

    def pwrite(self, data: memoryview, offset: int, durable: bool) -> None:
        self._meter.begin()
        begin, failed = time.perf_counter(), 1
        try:
            self._image.write(offset, data, durable)
            failed = 0
        finally:
            self._meter.end("write", len(data), time.perf_counter() - begin, failed)

    def flush(self) -> None:
        self._meter.begin()
        begin, failed = time.perf_counter(), 1
        try:
            self._image.flush()
            failed = 0
        finally:
            self._meter.end("flush", 0, time.perf_counter() - begin, failed)

    def clear(self, length: int, offset: int) -> None:
        """Trim and zero alike: the range reads as zeros, takes no room, and that is durable."""
        self._meter.begin()
        begin, failed = time.perf_counter(), 1
        try:
            self._image.clear(offset, length)
            failed = 0
        finally:
            self._meter.end("clear", length, time.perf_counter() - begin, failed)

    def extents(self, length: int, offset: int) -> list[Extent]:
        self._meter.begin()
        begin, failed = time.perf_counter(), 1
        try:
            found = self._image.extents(offset, length)
            failed = 0
        finally:
            self._meter.end("extents", 0, time.perf_counter() - begin, failed)
        return found


class _Open:
    """An image and how many connections use it."""

    __slots__ = ("image", "users")

    def __init__(self, image: BlockingImage) -> None:
        self.image, self.users = image, 0


class Gateway:
    """The process's connection to the cluster and the images it has open."""

    def __init__(self, settings: Settings) -> None:
        self.meter = Meter()
        self._settings = settings
        self._client: BlockingClient | None = None
        self._pool = DEFAULT_POOL
        self._open: dict[tuple[str, bool], _Open] = {}
        self._lock = threading.Lock()  # of `_open`; held while an image is opened, so that one is opened once
        self._stop_metrics: Callable[[], None] | None = None

    def start(self) -> None:
        """Connects; call it after any fork. Raises StoreError and ConfigError, one line each."""
        settings = self._settings
        self._pool = settings.pool or DEFAULT_POOL
        if settings.daemon is not None:
            self._client = BlockingClient.connect_direct(settings.daemon, settings.timeout_s)
        else:
            config = settings.cluster()
            self._pool = settings.pool or config.pool or DEFAULT_POOL
            self._client = BlockingClient.connect(config, settings.timeout_s, _PROGRAM)
            self._client.namespace.pool(self._pool)
            for image in settings.images:
                image_size(self._client, self._pool, image)
        if settings.metrics is not None:
            self._stop_metrics = serve(settings.metrics, self._families)

    def stop(self) -> None:
        """Flushes and gives back what is still open."""
        for name, readonly in list(self._open):
            self._end(name, readonly)
        if self._stop_metrics is not None:
            self._stop_metrics()
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> BlockingClient:
        if self._client is None:
            raise ConfigError("the gateway has not been started")
        return self._client

    def exports(self) -> list[tuple[str, str]]:
        """Names and descriptions. Raises StoreError."""
        if self._settings.images:
            return [(name, f"image {self._pool}/{name}") for name in self._settings.images]
        return [(name, f"image {self._pool}/{name}") for name, _ in list_images(self.client, self._pool)]

    def default_export(self) -> str:
        """What a client gets that names none: the only image, if there is one only."""
        names = [name for name, _ in self.exports()]
        return names[0] if len(names) == 1 else ""

    def open(self, name: str, readonly: bool) -> Export:
        """A connection begins. Raises StoreError: NOT_FOUND, or BUSY naming who else has it open for writing."""
        chosen = name or self.default_export()
        if not chosen or (self._settings.images and chosen not in self._settings.images):
            there = ", ".join(known for known, _ in self.exports()) or "none"
            raise ConfigError(f"no export '{chosen}' here (exports: {there})")
        key = (chosen, readonly)
        with self._lock:
            held = self._open.get(key)
            if held is None:
                mode = Mode.READ if readonly else Mode.WRITE
                holder = default_holder(_PROGRAM)
                image = open_image(self.client, self._pool, chosen, mode, self._settings.size, holder)
                held = self._open[key] = _Open(image)
                log.info("image opened", image=chosen, readonly=readonly)
            held.users += 1
            return Export(chosen, held.image, self.meter, readonly)

    def close(self, export: Export) -> None:
        """A connection ends. With the last one the image is flushed and its lock given back."""
        key = (export.name, export.readonly)
        with self._lock:
            held = self._open[key]
            held.users -= 1
            if held.users == 0:
                self._end(*key)

    def _end(self, name: str, readonly: bool) -> None:
        held = self._open.pop((name, readonly))
        try:
            close_image(self.client, held.image)
        except OSError as error:
            log.error("the image was closed with unflushed writes", image=name, reason=error.strerror)
        except (StoreError, TimeoutError) as error:
            log.warning(
                "the image's lock could not be given back; it ends with its lease", image=name, reason=str(error)
            )
        else:
            log.info("image closed", image=name)

    def _families(self) -> Iterable[Metric]:
        images = list(self._open.values())
        kept = sum(held.image.kept_bytes for held in images)
        gauges = (
            ("open_images", "Images that are open.", float(len(images))),
            ("kept_bytes", "Acknowledged unstable data kept until a flush.", float(kept)),
        )
        return self.meter.families((*gauges, *self.client.gauges()))


def errno_of(error: Exception) -> int:
    """For nbdkit: what an exception is to the NBD client."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.EIO
