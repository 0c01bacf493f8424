"""`store nbd`: becomes nbdkit with our plugin, in an environment in which its Python finds ours."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from store.cli.asking import configured
from store.cli.image import pool_or_default


def nbd(
    context: typer.Context,
    image: Annotated[
        list[str] | None, typer.Option(metavar="IMG", help="Serve this image; repeat for several (default: all).")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Pool of the images (default: the configuration's).")] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="Listen on this Unix socket.")] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Listen there. NBD asks for no password: who connects may write."),
    ] = None,
    serve_metrics: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")] = None,
) -> None:
    """Serve images over NBD in the foreground; the export's name is the image's.

    Use them with any NBD client, for example [bold]nbdinfo[/bold], [bold]qemu[/bold], or
    [bold]nbd-client -unix PATH -N IMG /dev/nbd0[/bold]. An image has one writer at a time.
    """
    if (socket is None) == (listen is None):
        raise typer.BadParameter("say where to listen: either --socket PATH or --listen HOST:PORT")
    configuration = configured(context.obj, config)
    metrics = serve_metrics or context.obj.serve_metrics
    command = [sys.executable, "-m", "gateways.nbd", "--config", str(configuration.path)]
    command += ["--pool", pool_or_default(configuration, pool)]
    command += [part for name in image or () for part in ("--image", name)]
    command += ["--socket", str(socket.absolute())] if socket else ["--listen", str(listen)]
    command += ["--serve-metrics", metrics] if metrics else []
    context.obj.pass_on()
    os.execv(command[0], command)
