"""`store master`, `store file-store`, `store mem-store`: the long-running programs, with the founding document's flags.

Each becomes the program's own process: the command line knows their flags, not their code.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from store.cli.invocation import Invocation

TLS_PANEL, CLUSTER_PANEL, DISK_PANEL = "Certificates", "The cluster", "The disk"

Peer = Annotated[str, typer.Option(metavar="HOST:PORT", help="Listen here for other daemons (TCP).")]
Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Listen here for clients.")]
Cert = Annotated[Path | None, typer.Option(help="Certificate shown to daemons.", rich_help_panel=TLS_PANEL)]
Key = Annotated[Path | None, typer.Option(help="Its private key.", rich_help_panel=TLS_PANEL)]
Ca = Annotated[Path | None, typer.Option(help="The authority that signed everybody.", rich_help_panel=TLS_PANEL)]
Master = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="A master's address for daemons. Without it the daemon serves this machine's user alone.",
        rich_help_panel=CLUSTER_PANEL,
    ),
]
Join = Annotated[str | None, typer.Option(help="Join with this one-time ticket.", rich_help_panel=CLUSTER_PANEL)]
Zone = Annotated[
    str | None, typer.Option(help="What may fail together, such as a home.", rich_help_panel=CLUSTER_PANEL)
]
Host = Annotated[str | None, typer.Option(help="The machine (default: its name).", rich_help_panel=CLUSTER_PANEL)]
Capacity = Annotated[
    str | None, typer.Option(help="Most to hold (default: half of what is free).", rich_help_panel=DISK_PANEL)
]
Metrics = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics.")]

DEFAULT_PEER: Final = "127.0.0.1:0"


def master(
    context: typer.Context,
    peer_address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Listen here for storage daemons (TCP).")],
    listen_address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Listen here for clients (TCP).")],
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Its state.")] = Path("./master"),
    peer_cert: Cert = None,
    peer_key: Key = None,
    peer_ca_cert: Ca = None,
    listen_cert: Annotated[
        Path | None, typer.Option(help="Certificate shown to clients.", rich_help_panel=TLS_PANEL)
    ] = None,
    listen_key: Annotated[Path | None, typer.Option(help="Its private key.", rich_help_panel=TLS_PANEL)] = None,
    serve_metrics: Metrics = None,
) -> None:
    """Run the master: it knows the devices, pools and clients, and hands out map and keys. Data never pass through it.

    Without certificates it makes an authority of its own in its directory, and issues what joins.
    """
    arguments = _pairs({
        "--dir": directory,
        "--peer-listen": peer_address,
        "--listen": listen_address,
        "--peer-cert": peer_cert,
        "--peer-key": peer_key,
        "--ca": peer_ca_cert,
        "--cert": listen_cert,
        "--key": listen_key,
    })  # fmt: skip
    _become("master", context.obj, arguments, serve_metrics)


def file_store(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Directory on the disk to serve.", rich_help_panel=DISK_PANEL)
    ],
    listen_address: Listen,
    peer_address: Peer = DEFAULT_PEER,
    peer_cert: Cert = None,
    peer_key: Key = None,
    peer_ca_cert: Ca = None,
    master: Master = None,
    join: Join = None,
    zone: Zone = None,
    host: Host = None,
    capacity: Capacity = None,
    journal: Annotated[
        str | None, typer.Option(help="Size of the journal of a new disk.", rich_help_panel=DISK_PANEL)
    ] = None,
    serve_metrics: Metrics = None,
) -> None:
    """Run a storage daemon: one directory, one disk. What it acknowledged is there after a crash.

    With [bold]--master[/bold] (or [bold]--join[/bold]) it becomes a device of a cluster. Without, it stands alone and
    serves only this user on this machine, whatever address it listens on.
    """
    arguments = _daemon_arguments(
        directory, listen_address, peer_address, peer_cert, peer_key, peer_ca_cert, master, join, zone, host, capacity
    )
    _become("daemon", context.obj, [*arguments, *_pairs({"--journal": journal})], serve_metrics)


def mem_store(
    context: typer.Context,
    listen_address: Listen,
    peer_address: Peer = DEFAULT_PEER,
    peer_cert: Cert = None,
    peer_key: Key = None,
    peer_ca_cert: Ca = None,
    master: Master = None,
    join: Join = None,
    zone: Zone = None,
    host: Host = None,
    capacity: Annotated[str, typer.Option(help="Most to hold, in memory.", rich_help_panel=DISK_PANEL)] = "256M",
    serve_metrics: Metrics = None,
) -> None:
    """Run a storage daemon that keeps everything in memory and forgets it when it ends. For trying things out."""
    scratch = _memory_directory()
    arguments = _daemon_arguments(
        scratch, listen_address, peer_address, peer_cert, peer_key, peer_ca_cert, master, join, zone, host, capacity
    )
    _become("daemon", context.obj, [*arguments, "--memory", "--journal", "64M"], serve_metrics)


def _daemon_arguments(
    directory: Path,
    listen: str,
    peer: str,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    master: str | None,
    join: str | None,
    zone: str | None,
    host: str | None,
    capacity: str | None,
) -> list[str]:
    return _pairs({
        "--dir": directory,
        "--listen": listen,
        "--peer-listen": peer,
        "--cert": cert,
        "--key": key,
        "--ca": ca,
        "--master": master,
        "--join": join,
        "--zone": zone,
        "--host": host,
        "--capacity": capacity,
    })  # fmt: skip


def _pairs(options: Mapping[str, object]) -> list[str]:
    """Those options that have a value, as arguments."""
    return [part for option, value in options.items() if value is not None for part in (option, str(value))]


def _memory_directory() -> Path:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="hyphae-", dir=base))


def _become(module: str, invocation: Invocation, arguments: list[str], metrics: str | None) -> NoReturn:
    """Replace this process by the program; signals then reach it directly."""
    address = metrics or invocation.serve_metrics
    arguments = [*arguments, *(["--serve-metrics", address] if address else [])]
    invocation.pass_on()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
