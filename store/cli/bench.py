"""`store bench`: how fast this cluster is from this machine, through the native client."""

import itertools
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from store.cli.asking import ask, configured
from store.cli.image import pool_or_default
from store.cli.image_content import remove_image
from store.cli.measure import Processors, Result, Stopwatch, many_at_once, one_after_the_other
from store.cli.output import Json, say, show_json, show_table
from store.client.blocking import BlockingClient
from store.client.blocking_image import BlockingImage
from store.client.blocking_open import close_image, open_image
from store.client.client import Client
from store.client.config import ClientConfig
from store.control.messages import ImageCreate, ImageIs
from store.errors import StoreError
from store.limits import BLOCK, MIB

AREA: Final = 128 * MIB  # the part of the image that is written and read
STREAM_DEPTH: Final = 8
DEEP: Final = 16


def bench(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Pool to measure (default: the configuration's, else main).")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="IMG", help="Use this image, whose first 128 MiB are overwritten.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each row.")] = 2.0,
    as_json: Json = False,
    config: Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")] = None,
) -> None:
    """Measure reads and writes of 4 KiB and 1 MiB, unstable and durable, with the CPU that each process spends.

    Without [bold]--image[/bold] it makes an image of its own and removes it afterwards. CPU is known for processes of
    this machine that [bold]store up[/bold] started. The depth-1 rows use the block device of the client library, as
    the NBD gateway does; the deeper ones its asynchronous client.
    """
    configuration = configured(context.obj, config)
    chosen = pool_or_default(configuration, pool)
    name = image or f"bench-{os.getpid()}"
    if image is not None:
        results = _measure(configuration, chosen, name, seconds)
    else:
        with _own_image(configuration, chosen, name):
            results = _measure(configuration, chosen, name, seconds)
    if as_json:
        show_json([as_dict(result) for result in results])
    else:
        show(results)


@contextmanager
def _own_image(config: ClientConfig, pool: str, name: str) -> Iterator[None]:
    """An image for the time of the measurements. If they fail, their error is told, not that of tidying up."""
    ask(config, ImageCreate(pool=pool, name=name, size=AREA), ImageIs)
    try:
        yield
    except BaseException:
        with suppress(StoreError):
            remove_image(config, pool, name)
        raise
    remove_image(config, pool, name)


def _measure(config: ClientConfig, pool: str, name: str, seconds: float) -> list[Result]:
    processors = Processors(local_processes(config))
    deep = uvloop.run(_streams(config, pool, name, processors, seconds))
    with BlockingClient.connect(config, program="store bench") as client:
        image = open_image(client, pool, name)
        try:
            return _singles(image, processors, seconds) + deep
        finally:
            close_image(client, image)


def _singles(image: BlockingImage, processors: Processors, seconds: float) -> list[Result]:
    """Depth 1, through the block device."""
    chance = random.Random(1)
    data = memoryview(chance.randbytes(BLOCK))
    into = memoryview(bytearray(BLOCK))
    operations: list[tuple[str, Callable[[], None]]] = [
        ("4 KiB read", lambda: image.read_into(_somewhere(chance), into)),
        ("4 KiB write, unstable", lambda: image.write(_somewhere(chance), data, False)),
        ("4 KiB write, durable", lambda: image.write(_somewhere(chance), data, True)),
    ]
    results = []
    for name, operate in operations:
        say(f"measuring {name}, depth 1")
        watch = Stopwatch(processors, seconds)
        one_after_the_other(watch, operate)
        results.append(watch.result(name, 1, BLOCK))
        image.flush()
    return results


async def _streams(config: ClientConfig, pool: str, name: str, processors: Processors, seconds: float) -> list[Result]:
    """Several at once, through the asynchronous client. First the area is filled, so that reads find something."""
    chance = random.Random(2)
    block, large = chance.randbytes(BLOCK), chance.randbytes(MIB)
    places = itertools.cycle(range(0, AREA, MIB))
    results = []
    async with (
        await Client.connect(config, program="store bench") as client,
        await client.open_image(pool, name) as image,
    ):
        for start in range(0, AREA, MIB):
            await image.write(start, large)
        await image.flush()
        rows: list[tuple[str, int, int, Callable[[], Awaitable[object]]]] = [
            ("1 MiB write, unstable", STREAM_DEPTH, MIB, lambda: image.write(next(places), large)),
            ("1 MiB read", STREAM_DEPTH, MIB, lambda: image.read(next(places), MIB)),
            ("4 KiB read", DEEP, BLOCK, lambda: image.read(_somewhere(chance), BLOCK)),
            ("4 KiB write, unstable", DEEP, BLOCK, lambda: image.write(_somewhere(chance), block)),
            ("4 KiB write, durable", DEEP, BLOCK, lambda: image.write(_somewhere(chance), block, durable=True)),
        ]
        for what, depth, size, operate in rows:
            say(f"measuring {what}, depth {depth}")
            watch = Stopwatch(processors, seconds)
            await many_at_once(watch, depth, operate)
            results.append(watch.result(what, depth, size))
            await image.flush()
    return results


def _somewhere(chance: random.Random) -> int:
    """The offset of any block of the area."""
    return chance.randrange(AREA // BLOCK) * BLOCK


def local_processes(config: ClientConfig) -> dict[str, int]:
    """The processes of a cluster that `store up` runs beside its configuration; empty for any other."""
    try:
        state = json.loads((config.path.parent / "cluster.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: process for name, process in state.get("processes", {}).items() if name not in ("up", "nbd")}


def show(results: list[Result]) -> None:
    """The table."""
    show_table(
        ("WHAT", ">DEPTH", ">PER SECOND", ">MiB/s", ">P50 us", ">P99 us", ">CLIENT CPU us", ">SERVER CPU us"),
        (
            (
                result.name,
                str(result.depth),
                f"{result.rate:,.0f}",
                f"{result.mib_per_second:,.1f}",
                f"{result.p50:,.0f}",
                f"{result.p99:,.0f}",
                f"{result.cpu['client']:,.0f}",
                f"{result.server_cpu:,.0f}" if len(result.cpu) > 1 else "-",
            )
            for result in results
        ),
        "nothing was measured",
    )


def as_dict(result: Result) -> dict[str, object]:
    """The row as `--json` shows it."""
    return {
        "what": result.name,
        "depth": result.depth,
        "bytes": result.size,
        "operations": result.operations,
        "per_second": result.rate,
        "mib_per_second": result.mib_per_second,
        "p50_us": result.p50,
        "p99_us": result.p99,
        "cpu_us_per_operation": result.cpu,
    }
