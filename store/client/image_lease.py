"""Holding an image: the lock at the master, its renewals, and giving it back.

The lock's generation is what protects the image (every request carries it, and a newer one fences it); the lease only
says when a holder that died may be replaced without asking anybody. So a holder that cannot reach the master goes on.
"""

import asyncio
import os
import socket
import time
import zlib
from typing import Final

import msgspec
import structlog

from store.client.access import MasterAccess
from store.client.image_layout import ImageLayout
from store.client.names import PoolNames
from store.control.messages import Done, ImageClose, ImageInfo, ImageOpen, ImageOpened, ImageRenew, ImageRenewed, Mode
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
    opened = await access.call(ImageOpen(pool=names.label, name=name, mode=mode, holder=holder), ImageOpened)
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


def layout_of(image: ImageInfo, generation: int, names: PoolNames) -> ImageLayout:
    return ImageLayout(image.prefix, image.size, image.id, generation, names.group)


def default_holder(program: str) -> str:
    """What those are told who are refused the image."""
    return f"{program} on {socket.gethostname()}, process {os.getpid()}"


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
