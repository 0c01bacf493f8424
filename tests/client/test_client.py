"""The asynchronous client over real sockets."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from store.client.async_image import Image
from store.client.client import Client
from store.client.image_lease import Held, direct_layout
from store.errors import ConfigError, Status, StoreError
from store.limits import MIB, OBJECT_MAX
from tests.client.live import LiveDaemon

Work = Callable[[Client], Awaitable[None]]


def with_client(daemon: LiveDaemon, work: Work, runner: Callable[..., None] = uvloop.run) -> None:
    async def main() -> None:
        async with await Client.connect_direct(daemon.address, timeout_s=10.0) as client:
            await work(client)

    runner(main())


async def refused(status: Status, asked: Awaitable[object]) -> str:
    """What it was refused with."""
    with pytest.raises(StoreError) as caught:
        await asked
    assert caught.value.status == status
    return str(caught.value)


@pytest.mark.parametrize("runner", [uvloop.run, asyncio.run])
def test_objects(daemon: LiveDaemon, runner: Callable[..., None]) -> None:
    async def work(client: Client) -> None:
        pool = client.pool("shelf")
        assert await pool.write("book", b"hello world") == 11
        assert await pool.write("book", b"W", offset=6) == 11
        assert await pool.read("book") == b"hello World"
        assert await pool.read("book", 6, 3) == b"Wor"
        assert await pool.read("book", 11) == b""
        assert (await pool.stat("book")).size == 11
        await pool.truncate("book", 5)
        assert await pool.read("book") == b"hello"
        await pool.trim("book", 0, 2)
        assert await pool.read("book") == b"\0\0llo"
        await pool.replace("book", b"new")
        assert await pool.read("book") == b"new"
        await pool.delete("book")
        await refused(Status.NOT_FOUND, pool.read("book"))

    with_client(daemon, work, runner)


def test_refusals_say_what_is_wrong(daemon: LiveDaemon) -> None:
    async def work(client: Client) -> None:
        pool = client.pool("shelf")
        await pool.create("x", b"1")
        assert "there is an object" in await refused(Status.EXISTS, pool.create("x", b"2"))
        assert "shelf/y" in await refused(Status.NOT_FOUND, pool.delete("y"))
        assert "past its end" in await refused(Status.INVALID, pool.read("x", 100))
        assert "1 to" in await refused(Status.INVALID, pool.write("", b"x"))
        assert "1 to" in await refused(Status.INVALID, pool.write("n" * 2000, b"x"))
        assert str(OBJECT_MAX) in await refused(Status.TOO_LARGE, pool.write("x", b"12", offset=OBJECT_MAX - 1))
        await refused(Status.INVALID, pool.write("x", b"12", offset=-1))

    with_client(daemon, work)


def test_large_objects_and_many_at_once(daemon: LiveDaemon) -> None:
    async def work(client: Client) -> None:
        pool = client.pool("shelf")
        large = random.Random(1).randbytes(OBJECT_MAX)
        await pool.write("large", large)
        assert await pool.read("large") == large
        await asyncio.gather(*(pool.write(f"n{index}", b"%d" % index) for index in range(500)))
        assert await asyncio.gather(*(pool.read(f"n{index}") for index in range(500))) == [
            b"%d" % index for index in range(500)
        ]
        assert {row.name async for row in pool.list("n")} == {b"n%d" % index for index in range(500)}
        assert [row.size async for row in pool.list("large")] == [OBJECT_MAX]
        assert [row async for row in client.pool("other").list()] == []

    with_client(daemon, work)


def test_a_cancelled_operation_is_forgotten(daemon: LiveDaemon) -> None:
    async def work(client: Client) -> None:
        pool = client.pool("shelf")
        with daemon.lock:
            daemon.daemon.alive = False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.write("x", b"1")
        with daemon.lock:
            daemon.daemon.alive = True
        await pool.write("x", b"2")
        assert await pool.read("x") == b"2"

    with_client(daemon, work)


def test_without_a_daemon_the_error_names_the_way_out(runtime: object) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="store file-store"):
            await Client.connect_direct(("127.0.0.1", 9))

    asyncio.run(main())


def test_an_image_behaves_as_a_disk(daemon: LiveDaemon) -> None:
    async def work(client: Client) -> None:
        size = 8 * MIB + 1000
        image = Image(client, Held("disk", direct_layout(client.namespace.pool("shelf"), "disk", size)))
        await image.fence()
        rng, truth = random.Random(3), bytearray(size)
        for step in range(120):
            offset = rng.randrange(size)
            length = min(rng.choice((1, 4096, 10_000, 300_000)), size - offset)
            action = rng.choice(("write", "durable", "clear", "read", "flush"))
            if action in ("write", "durable"):
                data = rng.randbytes(length)
                await image.write(offset, data, durable=action == "durable")
                truth[offset : offset + length] = data
            elif action == "clear":
                await image.clear(offset, length)
                truth[offset : offset + length] = bytes(length)
            elif action == "read":
                assert await image.read(offset, length) == truth[offset : offset + length]
            else:
                await image.flush()
            if step % 20 == 0:
                with daemon.lock:
                    daemon.state.power_cut()
        await image.close()
        with daemon.lock:
            daemon.state.power_cut()
        assert await image.read(0, size) == truth
        await refused(Status.INVALID, image.read(size - 1, 2))

    with_client(daemon, work)
