"""What commands do to the content of images: under the image's lock, so that no writer can undo it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from store.cli.output import transfer_progress
from store.client.client import Client
from store.client.config import ClientConfig
from store.client.image_lease import Held, default_holder
from store.client.operation import Operation
from store.client.outcome import failure
from store.control.messages import Done, ImageIs, ImageRemove, ImageResize
from store.errors import Status
from store.limits import CLIENT_BATCH, OBJECT_MAX

GIVES_UP_S: Final = 30.0
_DONE: Final = (Status.OK, Status.NOT_FOUND)


def remove_image(config: ClientConfig, pool: str, name: str) -> None:
    """Delete every object of the image, then its entry. Raises StoreError; then it can simply be done again."""

    async def work() -> None:
        async with _holding(config, pool, name) as (client, held):
            layout = held.layout
            await _delete(
                client, held, [index async for index in _objects(client, pool, held)], f"deleting {pool}/{name}"
            )
            await client.call(ImageRemove(pool=pool, name=name, generation=layout.generation), Done)

    asyncio.run(work())


def shrink_image(config: ClientConfig, pool: str, name: str, size: int) -> None:
    """Cut the image: first the entry, then what lies beyond the new end. Raises StoreError."""

    async def work() -> None:
        async with _holding(config, pool, name) as (client, held):
            message = ImageResize(pool=pool, name=name, size=size, generation=held.layout.generation)
            await client.call(message, ImageIs)
            whole = -(-size // OBJECT_MAX)
            beyond = [index async for index in _objects(client, pool, held) if index >= whole]
            await _delete(client, held, beyond, f"cutting {pool}/{name}")
            if size % OBJECT_MAX:
                edges = held.layout.clearings(size, OBJECT_MAX - size % OBJECT_MAX)
                starts = [(size + edge.position, edge.length) for edge in edges]
                await _all(client, [held.layout.clear(start, length, client.until()) for start, length in starts], name)

    asyncio.run(work())


@asynccontextmanager
async def _holding(config: ClientConfig, pool: str, name: str) -> AsyncIterator[tuple[Client, Held]]:
    """The image's lock, with every former holder fenced out of every group."""
    async with (
        await Client.connect(config, GIVES_UP_S, "store image") as client,
        await client.open_image(pool, name, holder=default_holder("store image")) as image,
    ):
        yield client, image.held


async def _objects(client: Client, pool: str, held: Held) -> AsyncIterator[int]:
    """The numbers of the objects that exist, asked of the daemons: an image is mostly holes."""
    prefix = held.layout.prefix
    async for row in client.pool(pool).list(prefix):
        number = row.name[len(prefix) :]
        if number.isdigit():
            yield int(number)


async def _delete(client: Client, held: Held, indexes: Sequence[int], what: str) -> None:
    with transfer_progress(what) as progress:
        task = progress.add_task("", total=len(indexes) * OBJECT_MAX)
        for start in range(0, len(indexes), CLIENT_BATCH):
            batch = indexes[start : start + CLIENT_BATCH]
            clears = [held.layout.clear(index * OBJECT_MAX, OBJECT_MAX, client.until()) for index in batch]
            await _all(client, clears, held.name)
            progress.advance(task, len(batch) * OBJECT_MAX)


async def _all(client: Client, operations: Sequence[Operation], name: str) -> None:
    """Raises StoreError for the first that failed; an object that is gone already is as it should be."""
    await client.perform_all(operations)
    for operation in operations:
        if operation.status not in _DONE:
            raise failure(operation, f"image {name}")
