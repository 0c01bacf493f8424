"""Opening and closing images of a BlockingClient: lock, fence, device."""

from typing import Final

import msgspec

from store.client.access import MasterAccess
from store.client.blocking import BlockingClient
from store.client.blocking_image import BlockingImage
from store.client.image_lease import DirectImage, Held, close_held, default_holder, direct_layout, open_held
from store.client.names import PoolNames
from store.client.operation import Operation
from store.client.outcome import failure
from store.control.messages import ImageIs, ImageList, ImagesAre, ImageStat, Mode
from store.errors import Status, StoreError
from store.limits import IMAGE_SIZE_MAX, KIB, MIB
from store.wire.header import Flag, Op

DIRECT_SIZE: Final = 10 * KIB * MIB  # of an image of a daemon without a master, if no size is given
_CLOSE_S: Final = 5.0


def open_image(
    client: BlockingClient, pool: str, name: str, mode: Mode = Mode.WRITE, size: int | None = None, holder: str = ""
) -> BlockingImage:
    """Takes the lock, fences whoever had it before, and returns the device.

    Mode.READ takes no lock: it sees what the writer wrote, as it comes. `size` is for a daemon without a master only:
    there an image is made when it is opened first. Raises StoreError: NOT_FOUND, or BUSY naming the holder.
    """
    names = client.namespace.pool(pool)
    access = client.link.access
    shown = holder or default_holder("client")
    if isinstance(access, MasterAccess):
        held = client.link.run(open_held(access, names, name, mode, shown))
    else:
        held = Held(name, direct_layout(names, name, _direct_size(client, names, name, size)))
    image = BlockingImage(client, held, client.timeout_s)
    if held.writable:
        try:
            image.fence()
        except BaseException:
            _give_back(client, held)
            raise
    return image


def close_image(client: BlockingClient, image: BlockingImage) -> None:
    """Flushes and gives the lock back, also when the flush fails. Raises OSError if it does."""
    try:
        if image.writable:
            image.flush()
    finally:
        _give_back(client, image.held)


def list_images(client: BlockingClient, pool: str) -> list[tuple[str, int]]:
    """Names and sizes; of a daemon without a master, which has no list, none. Raises StoreError."""
    if not isinstance(client.link.access, MasterAccess):
        return []
    return [(image.name, image.size) for image in client.call(ImageList(pool=pool), ImagesAre).images]


def image_size(client: BlockingClient, pool: str, name: str) -> int:
    """Raises StoreError NOT_FOUND."""
    return client.call(ImageStat(pool=pool, name=name), ImageIs).image.size


def _give_back(client: BlockingClient, held: Held) -> None:
    access = client.link.access
    if isinstance(access, MasterAccess):
        client.link.run(close_held(access, held), _CLOSE_S)


def _direct_size(client: BlockingClient, names: PoolNames, name: str, size: int | None) -> int:
    """The size on record; without a record, it is made now."""
    wire = names.wire(name)
    group = names.group(wire)
    into = memoryview(bytearray(4 * KIB))
    reading = Operation(Op.READ, group, wire, client.until(), into=into)
    client.perform(reading)
    if reading.status == Status.OK:
        try:
            return msgspec.json.decode(into[: reading.length], type=DirectImage).size
        except msgspec.DecodeError as error:
            raise StoreError(Status.EXISTS, f"{names.show(name)} is an object, not an image") from error
    if reading.status != Status.NOT_FOUND:
        raise failure(reading, f"open image {names.show(name)}")
    made = DIRECT_SIZE if size is None else size
    if not 0 < made <= IMAGE_SIZE_MAX:
        raise StoreError(Status.INVALID, f"an image has 1 to {IMAGE_SIZE_MAX} bytes")
    payload = msgspec.json.encode(DirectImage(made))
    writing = Operation(Op.CREATE, group, wire, client.until(), size=len(payload), payload=payload, flags=Flag.DURABLE)
    client.perform(writing)
    if writing.status not in (Status.OK, Status.EXISTS):
        raise failure(writing, f"make image {names.show(name)}")
    return made
