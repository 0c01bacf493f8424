"""`store pool`: namespaces, each with its number of copies."""

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer

from store.cli.asking import ask, configured
from store.cli.output import Json, say, show_json, show_table
from store.client.client import Client
from store.client.config import ClientConfig
from store.control.messages import Done, PoolCreate, PoolIs, PoolList, PoolRemove, PoolsAre, PoolStatus
from store.errors import Status, StoreError
from store.limits import GROUPS_DEFAULT
from store.sizes import format_size

GIVES_UP_S: Final = 30.0

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Namespaces, each with its number of copies.\n\n"
    "A pool keeps every object on as many devices as it has replicas, on different machines or zones where there are "
    "enough. Its objects are spread over groups; more groups spread more evenly and cost a little memory each.",
)

Config = Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")]
Name = Annotated[str, typer.Argument(help="Name of the pool.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    replicas: Annotated[int, typer.Option(help="Copies of every object.")] = 3,
    groups: Annotated[int, typer.Option(help="Groups the objects are spread over; fixed for good.")] = GROUPS_DEFAULT,
    min_write: Annotated[int, typer.Option(help="Refuse writes while fewer copies than this would take them.")] = 1,
    wait: Annotated[float, typer.Option(help="Seconds to wait for enough devices to register.")] = 0.0,
    config: Config = None,
) -> None:
    """Create a pool."""
    message = PoolCreate(name=name, replicas=replicas, groups=groups, min_write=min_write, wait=wait)
    pool = ask(configured(context.obj, config), message, PoolIs, wait + 10.0).pool
    say(f"pool {pool.name}: {pool.replicas} copies, {pool.groups} groups")


@app.command("ls")
def list_pools(context: typer.Context, as_json: Json = False, config: Config = None) -> None:
    """List the pools and how well their groups are."""
    pools = ask(configured(context.obj, config), PoolList(), PoolsAre).pools
    if as_json:
        show_json([as_dict(pool) for pool in pools])
        return
    show_table(
        ("NAME", ">COPIES", ">GROUPS", ">COMPLETE", ">DEGRADED", ">OBJECTS", ">BYTES", ">IMAGES"),
        (
            (
                pool.name,
                str(pool.replicas),
                str(pool.groups),
                str(pool.complete),
                str(pool.degraded),
                str(pool.objects),
                format_size(pool.bytes),
                str(pool.images),
            )
            for pool in pools
        ),
        "no pools; make one with `store pool create NAME --replicas N`",
    )


@app.command("rm")
def remove(
    context: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also if it still holds objects or images.")] = False,
    config: Config = None,
) -> None:
    """Remove a pool, for good. Refused while it holds anything, unless forced."""
    configuration = configured(context.obj, config)
    if not force:
        asyncio.run(_refuse_if_used(configuration, name))
    ask(configuration, PoolRemove(name=name, force=force), Done)
    say(f"pool {name} removed")


async def _refuse_if_used(config: ClientConfig, name: str) -> None:
    """Asks the daemons: what the master knows of objects is as old as the last heartbeat. Raises StoreError EXISTS."""
    async with await Client.connect(config, GIVES_UP_S, "store pool rm") as client:
        async for row in client.pool(name).list():
            shown = row.name.decode("utf-8", "backslashreplace")
            raise StoreError(Status.EXISTS, f"pool {name} holds objects, such as {shown}: --force removes them too")


def as_dict(pool: PoolStatus) -> dict[str, object]:
    """The pool as `--json` shows it."""
    return {
        "name": pool.name,
        "number": pool.number,
        "replicas": pool.replicas,
        "groups": pool.groups,
        "min_write": pool.min_write,
        "images": pool.images,
        "objects": pool.objects,
        "bytes": pool.bytes,
        "groups_complete": pool.complete,
        "groups_degraded": pool.degraded,
        "groups_unwritable": pool.unwritable,
    }
