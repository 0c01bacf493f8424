"""`store join`: one-time tickets by which machines and clients become part of the cluster."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from store.cli.asking import ask, configured
from store.cli.authority import Kind, write_private
from store.cli.output import say
from store.cli.pool_names import pool_number
from store.client.config import render_config
from store.control.joining import join as join_cluster
from store.control.messages import JoinTicketCreate, JoinTicketIs
from store.crypto.ticket import ANY_POOL, Cap, Right
from store.errors import ConfigError

HOUR_S = 3600.0


def join(
    context: typer.Context,
    ticket: Annotated[str | None, typer.Argument(help="The ticket: one word that begins with join1.")] = None,
    new: Annotated[
        Kind | None, typer.Option("--new", metavar="daemon|client", help="Make a ticket instead of using one.")
    ] = None,
    name: Annotated[str, typer.Option(help="With --new client: what the client is called.")] = "",
    pool: Annotated[
        list[str] | None, typer.Option(help="With --new client: limit it to this pool; repeat for several.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="With --new client: only objects whose names begin so.")] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="With --new client: it may not write.")] = False,
    admin: Annotated[
        bool, typer.Option("--admin", help="With --new client: it may also manage pools and clients.")
    ] = False,
    hours: Annotated[float, typer.Option(help="With --new: hours until the ticket ends.")] = 1.0,
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write what joining gives.")] = Path(
        "/etc/hyphae"
    ),
    config: Annotated[Path | None, typer.Option("--config", help="With --new: the cluster's client.toml.")] = None,
) -> None:
    """Join this machine to a cluster with a ticket, or make a ticket.

    On a machine of the cluster: [bold]store join --new client --name laptop --pool main[/bold] prints a ticket. On the
    other: [bold]store join TICKET --dir /etc/hyphae[/bold]. A storage daemon takes its ticket itself:
    [bold]store file-store --join TICKET --dir DIR …[/bold]
    """
    if (ticket is None) == (new is None):
        raise typer.BadParameter("either give a ticket, or ask for one with --new daemon or --new client")
    if ticket is not None:
        _use(ticket, directory)
        return
    configuration = configured(context.obj, config)
    rights = Right.READ | Right.LIST | (Right(0) if read_only else Right.WRITE)
    caps: tuple[Cap, ...] = ()
    if new == Kind.CLIENT:
        numbers = [pool_number(configuration, each) for each in pool or ()] or [ANY_POOL]
        caps = tuple(Cap(number, int(rights), prefix.encode()) for number in numbers)
        caps += (Cap(ANY_POOL, int(Right.ADMIN)),) if admin else ()
    message = JoinTicketCreate(role=str(new), name=name, caps=caps, lifetime=hours * HOUR_S)
    made = ask(configuration, message, JoinTicketIs)
    print(made.ticket)
    say(f"valid once, until {time.strftime('%Y-%m-%d %H:%M', time.localtime(made.not_after))}")


def _use(ticket: str, directory: Path) -> None:
    if (directory / "client.toml").exists():
        raise ConfigError(f"{directory}/client.toml is there already: remove it, or give another --dir")
    directory.mkdir(parents=True, exist_ok=True)
    joined, credentials = asyncio.run(join_cluster(ticket))
    write_private(directory / "client.key", credentials.private_key)
    (directory / "client.crt").write_text(credentials.certificate)
    (directory / "ca.crt").write_text(credentials.authority)
    if ":client:" not in joined.role:
        say(
            f"this was a daemon's ticket: start it with --peer-cert {directory}/client.crt "
            f"--peer-key {directory}/client.key --peer-ca-cert {directory}/ca.crt"
        )
        return
    path = directory / "client.toml"
    path.write_text(render_config(joined.masters, "ca.crt", "client.crt", "client.key", None))
    say(f"joined as {joined.role.rpartition(':')[2]}; {path} says where the cluster is")
