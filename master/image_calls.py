"""Calls about images: the registry and the locks."""

from typing import Final

from master.core.images import ImageRecord
from master.core.pools import PoolRecord
from master.core.principals import ClientRecord
from master.office import Calls, Office
from store.control.messages import (
    Done,
    ImageClose,
    ImageCreate,
    ImageIs,
    ImageList,
    ImageOpen,
    ImageRemove,
    ImageRenew,
    ImageResize,
    ImagesAre,
    ImageStat,
    Message,
    Mode,
)
from store.crypto.ticket import Right
from store.errors import Status, StoreError


def create(office: Office, asker: ClientRecord, message: ImageCreate) -> Message:
    cluster = office.cluster
    pool = cluster.pools.named(message.pool)
    _must(asker, Right.WRITE, pool, message.name)
    number = int.from_bytes(cluster.draw(8), "little") or 1
    record = cluster.images.create(cluster.clock.wall(), number, pool.number, message.name, message.size)
    cluster.note(asker.name, "image create", f"{pool.name}/{record.name}")
    return _shown(office, record)


def list_images(office: Office, asker: ClientRecord, message: ImageList) -> Message:
    """Those that the asker may read or write, by pool and name."""
    cluster = office.cluster
    pools = [cluster.pools.named(message.pool)] if message.pool else cluster.pools.all()
    now = cluster.clock.boot()
    return ImagesAre(
        tuple(
            cluster.images.info(now, record, pool.name)
            for pool in pools
            for record in sorted(cluster.images.of_pool(pool.number), key=lambda record: record.name)
            if asker.allows(Right.READ | Right.WRITE, pool.number, record.name.encode())
        )
    )


def stat(office: Office, asker: ClientRecord, message: ImageStat) -> Message:
    return _shown(office, _find(office, asker, Right.READ | Right.WRITE, message.pool, message.name))


def resize(office: Office, asker: ClientRecord, message: ImageResize) -> Message:
    record = _find(office, asker, Right.WRITE, message.pool, message.name)
    changed = office.cluster.images.resize(record, message.size, message.generation)
    office.cluster.note(asker.name, "image resize", f"{message.pool}/{record.name} to {message.size}")
    return _shown(office, changed)


def remove(office: Office, asker: ClientRecord, message: ImageRemove) -> Message:
    cluster = office.cluster
    record = _find(office, asker, Right.WRITE, message.pool, message.name)
    cluster.images.remove(cluster.clock.boot(), record, message.generation)
    cluster.note(asker.name, "image remove", f"{message.pool}/{record.name}")
    return Done()


def open_image(office: Office, asker: ClientRecord, message: ImageOpen) -> Message:
    cluster = office.cluster
    right = Right.READ if message.mode == Mode.READ else Right.WRITE
    record = _find(office, asker, right, message.pool, message.name)
    now = cluster.clock.boot()
    changed, generation = cluster.images.open(now, record, message.mode, message.holder, asker.name)
    if message.mode == Mode.TAKE and record.holder:
        cluster.note(asker.name, "image lock taken", f"{message.pool}/{record.name} from {record.holder}")
    return cluster.images.opened(now, changed, generation, message.pool)


def renew(office: Office, asker: ClientRecord, message: ImageRenew) -> Message:
    cluster = office.cluster
    record = cluster.images.numbered(message.id)
    _must_own(asker, record)
    return cluster.images.renew(cluster.clock.boot(), record, message.generation)


def close(office: Office, asker: ClientRecord, message: ImageClose) -> Message:
    images = office.cluster.images
    try:
        record = images.numbered(message.id)
    except StoreError:
        return Done()
    if record.owner == asker.name:
        images.close(record, message.generation)
    return Done()


def _find(office: Office, asker: ClientRecord, right: Right, pool: str, name: str) -> ImageRecord:
    found = office.cluster.pools.named(pool)
    _must(asker, right, found, name)
    return office.cluster.images.find(found.number, name)


def _must(asker: ClientRecord, right: Right, pool: PoolRecord, name: str) -> None:
    if not asker.allows(right, pool.number, name.encode()):
        what = "write" if right == Right.WRITE else "read"
        raise StoreError(Status.DENIED, f"client '{asker.name}' may not {what} '{name}' in pool '{pool.name}'")


def _must_own(asker: ClientRecord, record: ImageRecord) -> None:
    if record.owner != asker.name:
        by = record.holder or "nobody"
        raise StoreError(Status.FENCED, f"image '{record.name}' is locked by {by}, not by client '{asker.name}'")


def _shown(office: Office, record: ImageRecord) -> ImageIs:
    cluster = office.cluster
    pool = cluster.pools.numbered(record.pool)
    return ImageIs(cluster.images.info(cluster.clock.boot(), record, "" if pool is None else pool.name))


CALLS: Final[Calls] = {
    ImageCreate: create,
    ImageList: list_images,
    ImageStat: stat,
    ImageResize: resize,
    ImageRemove: remove,
    ImageOpen: open_image,
    ImageRenew: renew,
    ImageClose: close,
}
