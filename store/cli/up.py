"""`store up`: a whole cluster on this machine, in the foreground."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def up(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where everything is kept; made if missing.")
    ] = Path("./var"),
    daemons: Annotated[int | None, typer.Option(help="Storage daemons. (default: 3, or as before)")] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies in the pool main, when it is made. (default: 3)")] = None,
    port_base: Annotated[
        int | None, typer.Option(help="First of the ports, all on 127.0.0.1. (default: 4000, or as before)")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="Make this image if it is missing; repeat for several."),
    ] = None,
    no_nbd: Annotated[bool, typer.Option("--no-nbd", help="Do not serve images over NBD.")] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Serve Prometheus metrics of each program, from port base + 20 on.")
    ] = False,
) -> None:
    """Start a whole cluster in the foreground: master, daemons, NBD. Ctrl-C stops it; what it holds stays.

    Writes DIR/client.toml, which all other commands find by themselves when DIR is ./var. Makes the pool
    [bold]main[/bold] and, with [bold]--image book=2G[/bold], images. Run it again to bring the same cluster back.
    A program that dies is started again.
    """
    arguments = ["--dir", str(directory)]
    for option, value in (("--daemons", daemons), ("--replicas", replicas), ("--port-base", port_base)):
        arguments += [option, str(value)] if value is not None else []
    for each in image or ():
        arguments += ["--image", each]
    arguments += ["--no-nbd"] if no_nbd else []
    arguments += ["--metrics"] if metrics else []
    # The cluster's launcher knows the master's and the daemon's code, and the command line does not: so it becomes it.
    context.obj.pass_on()
    os.execv(sys.executable, [sys.executable, "-m", "cluster", *arguments])
