"""`store write|read|delete|stat|locate|ls`: objects of a pool."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from store.addresses import format_address, parse_address
from store.cli.asking import configured, unreachable
from store.cli.invocation import Invocation
from store.cli.output import Json, show_json, show_table
from store.client.client import Client
from store.client.pool import Pool
from store.errors import ConfigError, Status, StoreError
from store.limits import OBJECT_MAX
from store.sizes import format_size
from store.wire.listing import Listed

GIVES_UP_S: Final = 30.0  # longer than a failover takes
SORTED_MAX: Final = 100_000  # names kept to be sorted; a longer list comes out as the groups give it

PoolName = Annotated[str, typer.Option("--pool", help="The pool.")]
Name = Annotated[str, typer.Argument(metavar="OBJ", help="Name of the object, 1 to 1,024 bytes.")]
Config = Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")]
Daemon = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Ask this daemon, one without a master on this machine, and nobody else."),
]
Offset = Annotated[int | None, typer.Option(min=0, help="Begin at this byte.")]

T = TypeVar("T")


def write(
    context: typer.Context,
    name: Name,
    pool: PoolName,
    data_literal: Annotated[str | None, typer.Option(metavar="TEXT", help="Write this text.")] = None,
    data_file: Annotated[str | None, typer.Option(metavar="FILE", help="Write what is in FILE; - is stdin.")] = None,
    offset: Offset = None,
    storage_daemon: Daemon = None,
    config: Config = None,
) -> None:
    """Write an object; it is on every copy's disk when the command ends.

    Without [bold]--offset[/bold] the object becomes exactly what is given. With it, only that part changes, and a gap
    before it reads as zeros. An object has at most 4 MiB.
    """
    if (data_literal is None) == (data_file is None):
        raise typer.BadParameter("give the data either as --data-literal TEXT or as --data-file FILE")
    data = data_literal.encode() if data_literal is not None else _content(str(data_file))

    async def put(objects: Pool) -> None:
        if offset is None:
            await objects.replace(name, data)
        else:
            await objects.write(name, data, offset)

    _run(context.obj, config, storage_daemon, pool, put)


def read(
    context: typer.Context,
    name: Name,
    pool: PoolName,
    offset: Offset = None,
    length: Annotated[int | None, typer.Option(min=0, help="At most so many bytes.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to FILE instead of stdout.")] = None,
    storage_daemon: Daemon = None,
    config: Config = None,
) -> None:
    """Read an object to stdout, checked against its checksums."""
    data = _run(context.obj, config, storage_daemon, pool, lambda objects: objects.read(name, offset or 0, length))
    if output is not None:
        output.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def delete(
    context: typer.Context, name: Name, pool: PoolName, storage_daemon: Daemon = None, config: Config = None
) -> None:
    """Delete an object. Exit code 1 if there is none."""
    _run(context.obj, config, storage_daemon, pool, lambda objects: objects.delete(name))


def stat(
    context: typer.Context,
    name: Name,
    pool: PoolName,
    as_json: Json = False,
    storage_daemon: Daemon = None,
    config: Config = None,
) -> None:
    """Show the size and version of an object. The version differs after every change."""
    found = _run(context.obj, config, storage_daemon, pool, lambda objects: objects.stat(name))
    if as_json:
        show_json({"pool": pool, "name": name, "size": found.size, "version": found.version})
    else:
        print(f"{pool}/{name}: {format_size(found.size)} ({found.size} bytes), version {found.version:x}")


def locate(
    context: typer.Context,
    name: Name,
    pool: PoolName,
    as_json: Json = False,
    storage_daemon: Daemon = None,
    config: Config = None,
) -> None:
    """Show which devices hold an object, or would: computed from its name and the storage map, without asking them."""

    async def where(objects: Pool) -> dict[str, object]:
        route = objects.locate(name)
        return {
            "pool": pool,
            "name": name,
            "group": route.group,
            "epoch": route.epoch,
            "primary": route.primary.name if route.primary else None,
            "devices": [
                {"name": device.name, "address": format_address(device.address), "in_sync": device in route.in_sync}
                for device in route.members
            ],
        }

    found = _run(context.obj, config, storage_daemon, pool, where)
    if as_json:
        show_json(found)
        return
    devices = found["devices"]
    assert isinstance(devices, list)
    print(f"{pool}/{name} is in group {found['group']:x}")
    show_table(
        ("DEVICE", "ADDRESS", "ROLE"),
        ((each["name"], each["address"], _role(each, found["primary"])) for each in devices),
        "no device holds this group",
    )


def list_objects(
    context: typer.Context,
    pool: PoolName,
    prefix: Annotated[str, typer.Option(help="Only names that begin so.")] = "",
    long: Annotated[bool, typer.Option("--long", "-l", help="With sizes.")] = False,
    as_json: Json = False,
    storage_daemon: Daemon = None,
    config: Config = None,
) -> None:
    """List the objects of a pool, by name."""

    def show(rows: list[Listed]) -> None:
        for row in sorted(rows, key=lambda row: row.name):
            name = row.name.decode("utf-8", "backslashreplace")
            print(f"{row.size:>8}  {name}" if long else name)

    async def collect(objects: Pool) -> list[Listed]:
        rows: list[Listed] = []
        async for row in objects.list(prefix):
            rows.append(row)
            if len(rows) == SORTED_MAX and not as_json:
                show(rows)
                rows.clear()
        return rows

    rows = _run(context.obj, config, storage_daemon, pool, collect)
    if as_json:
        names = sorted((row.name.decode("utf-8", "backslashreplace"), row.size, row.version) for row in rows)
        show_json([{"name": name, "size": size, "version": version} for name, size, version in names])
    else:
        show(rows)


def _run(
    invocation: Invocation,
    config: Path | None,
    daemon: str | None,
    pool: str,
    work: Callable[[Pool], Awaitable[T]],
) -> T:
    """Connect to the cluster, or to the one daemon that is named, and do the work in the pool."""

    async def connected() -> T:
        if daemon is not None:
            client = await Client.connect_direct(parse_address(daemon), GIVES_UP_S)
        else:
            configuration = configured(invocation, config)
            try:
                client = await Client.connect(configuration, GIVES_UP_S, "store")
            except StoreError as error:
                if error.status == Status.UNAVAILABLE:
                    raise unreachable(configuration.masters, error) from error
                raise
        async with client:
            return await work(client.pool(pool))

    return asyncio.run(connected())


def _content(path: str) -> bytes:
    """At most one byte more than an object may have: enough to be refused."""
    try:
        if path == "-":
            return sys.stdin.buffer.read(OBJECT_MAX + 1)
        with open(path, "rb") as file:
            return file.read(OBJECT_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _role(device: dict[str, object], primary: object) -> str:
    if device["name"] == primary:
        return "primary"
    return "secondary" if device["in_sync"] else "catching up"
