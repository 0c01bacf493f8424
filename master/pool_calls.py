"""Calls about pools. Those that wait for devices begin in clients.py: creating one, and removing one."""

from typing import Final

from master.core.pools import PoolRecord
from master.core.principals import ClientRecord
from master.office import Calls, Office
from store.control.messages import Done, Message, PoolList, PoolRemove, PoolsAre
from store.crypto.ticket import Right
from store.errors import Status, StoreError


def list_pools(office: Office, asker: ClientRecord, message: PoolList) -> Message:
    """Those that the asker may do anything in."""
    cluster = office.cluster
    seen = [pool for pool in cluster.pools.all() if any(cap.pool in (0, pool.number) for cap in asker.caps)]
    return PoolsAre(tuple(cluster.pool_status(pool) for pool in seen))


def check_removal(office: Office, asker: ClientRecord, message: PoolRemove) -> PoolRecord:
    """The pool that may go, by what is known now. Raises StoreError."""
    must_administer(asker)
    cluster = office.cluster
    pool = cluster.pools.named(message.name)
    open_image = cluster.images.open_in(cluster.clock.boot(), pool.number)
    if open_image is not None:
        text = f"image '{open_image.name}' is open for writing by {open_image.holder}: close it first"
        raise StoreError(Status.CONFLICT, text)
    status = cluster.pool_status(pool)
    if not message.force and (status.images or status.objects):
        text = f"pool '{pool.name}' holds {status.images} images and {status.objects} objects; use --force to lose them"
        raise StoreError(Status.EXISTS, text)
    return pool


def remove_pool(office: Office, asker: ClientRecord, message: PoolRemove) -> Message:
    cluster = office.cluster
    pool = check_removal(office, asker, message)
    cluster.remove_pool(pool)
    cluster.note(asker.name, "pool remove", pool.name)
    return Done()


def must_administer(asker: ClientRecord) -> None:
    """Raises StoreError DENIED."""
    if not asker.allows(Right.ADMIN):
        raise StoreError(Status.DENIED, f"client '{asker.name}' may not administer this cluster")


CALLS: Final[Calls] = {PoolList: list_pools}
