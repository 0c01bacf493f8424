"""Holding an image: the lock at the master, its renewals, and giving it back.

The lock's generation is what protects the image (every request carries it, and a newer one fences it); the lease only
says when a holder that died may be replaced without asking anybody. So a holder that cannot reach the master goes on.
"""

import asyncio
import time
import zlib
from typing import Final

import msgspec
import structlog

from store.client.access import MasterAccess
from store.client.holder import default_holder, is_gone
from store.client.image_layout import ImageLayout
from store.client.names import PoolNames
from store.control.messages import (
    Done,
    ImageClose,
    ImageInfo,
    ImageIs,
    ImageOpen,
    ImageOpened,
    ImageRenew,
    ImageRenewed,
    ImageStat,
    Mode,
)
from store.errors import Status, StoreError

log = structlog.get_logger()

_RENEWALS_PER_LEASE: Final = 3


class Held:
    """An image that was opened: its layout, and whether the lock is known to be lost."""

    def __init__(self, name: str, layout: ImageLayout) -> None:
        self.name, self.layout = name, layout
        self.lost = False  # a newer lock was granted: nothing will be accepted any more
        self._renewing: asyncio.Task[None] | None = None

    @property
    def writable(self) -> bool:
        return self.layout.generation != 0


async def open_held(access: MasterAccess, names: PoolNames, name: str, mode: Mode, holder: str) -> Held:
    """Takes the lock (or none, to read). Raises StoreError: NOT_FOUND, or BUSY naming who has it."""
    asking = ImageOpen(pool=names.label, name=name, mode=mode, holder=holder)
    try:
        opened = await access.call(asking, ImageOpened)
    except StoreError as error:
        if error.status != Status.BUSY or not await _free_if_gone(access, names, name):
            raise
        opened = await access.call(asking, ImageOpened)
    held = Held(name, layout_of(opened.image, opened.generation, names))
    if held.writable:
        held._renewing = asyncio.get_running_loop().create_task(_renew(access, held, opened.lease))
    return held


async def close_held(access: MasterAccess, held: Held) -> None:
    """Gives the lock back; if the master cannot be told, the lease ends by itself."""
    if held._renewing is not None:
        held._renewing.cancel()
        await asyncio.gather(held._renewing, return_exceptions=True)
    if held.writable:
        try:
            await access.call(ImageClose(id=held.layout.scope, generation=held.layout.generation), Done, 2.0)
        except StoreError as error:
            log.info("the image's lock ends with its lease", image=held.name, reason=str(error))


__all__ = ["DirectImage", "Held", "close_held", "default_holder", "direct_layout", "layout_of", "open_held"]


def layout_of(image: ImageInfo, generation: int, names: PoolNames) -> ImageLayout:
    return ImageLayout(image.prefix, image.size, image.id, generation, names.group)


async def _free_if_gone(access: MasterAccess, names: PoolNames, name: str) -> bool:
    """Gives the lock back in the name of a holder that died on this machine. Naming its generation makes it safe: if
    somebody else was faster, nothing happens."""
    image = (await access.call(ImageStat(pool=names.label, name=name), ImageIs)).image
    if not is_gone(image.holder):
        return False
    log.warning("the image's holder is dead: its lock is given back", image=name, holder=image.holder)
    await access.call(ImageClose(id=image.id, generation=image.generation), Done)
    return True


async def _renew(access: MasterAccess, held: Held, lease: float) -> None:
    message = ImageRenew(id=held.layout.scope, generation=held.layout.generation)
    while True:
        await asyncio.sleep(lease / _RENEWALS_PER_LEASE)
        try:
            renewed = await access.call(message, ImageRenewed)
        except StoreError as error:
            if error.status in (Status.FENCED, Status.NOT_FOUND):
                held.lost = True
                log.error("another client has taken the image over", image=held.name, reason=str(error))
                return
            log.info("the image's lease was not renewed; going on", image=held.name, reason=str(error))
        else:
            lease = renewed.lease


# --- images of a daemon without a master -----------------------------------------------------------------------------


class DirectImage(msgspec.Struct):
    """The object that stands for an image where there is no registry; JSON. Its name is the image's."""

    size: int  # bytes


def direct_layout(names: PoolNames, name: str, size: int) -> ImageLayout:
    """Whoever opens the image last has it: its generation is the time, in seconds of the wall clock."""
    wire = names.wire(name)
    scope = zlib.crc32(wire) | 1 << 32  # any number but 0, the same for everybody
    return ImageLayout(wire + b".", size, scope, int(time.time()), names.group)
