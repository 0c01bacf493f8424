"""`store nbd`: becomes nbdkit with our plugin, in an environment in which its Python finds ours."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from store.cli.asking import configured
from store.cli.image import DEFAULT_POOL, pool_or_default


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
    read_only: Annotated[bool, typer.Option("--read-only", help="Take no lock, refuse writes.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Fail a request that waits longer. (default: 60)")
    ] = None,
    storage_daemon: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Use this daemon, one without a master; images are made when opened."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="With --storage-daemon: size of an image made there.")] = None,
    serve_metrics: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")] = None,
) -> None:
    """Serve images over NBD in the foreground; the export's name is the image's.

    Use them with any NBD client, for example [bold]nbdinfo[/bold], [bold]qemu[/bold], or
    [bold]nbd-client -unix PATH -N IMG /dev/nbd0[/bold]. An image has one writer at a time.
    """
    if (socket is None) == (listen is None):
        raise typer.BadParameter("say where to listen: either --socket PATH or --listen HOST:PORT")
    command = [sys.executable, "-m", "gateways.nbd"]
    if storage_daemon is not None:
        command += ["--storage-daemon", storage_daemon, "--pool", pool or DEFAULT_POOL]
        command += ["--size", size] if size else []
    else:
        configuration = configured(context.obj, config)
        command += ["--config", str(configuration.path), "--pool", pool_or_default(configuration, pool)]
    metrics = serve_metrics or context.obj.serve_metrics
    command += [part for name in image or () for part in ("--image", name)]
    command += ["--socket", str(socket.absolute())] if socket else ["--listen", str(listen)]
    command += ["--serve-metrics", metrics] if metrics else []
    command += ["--read-only"] if read_only else []
    command += ["--timeout", str(timeout)] if timeout is not None else []
    context.obj.pass_on()
    os.execv(command[0], command)
