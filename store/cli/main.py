"""The `store` command: finds the noun that is asked for, imports that file alone, turns errors into one line.

Each noun has a file of its own and is loaded only when it runs, so that `store --help` and completion stay fast.
Exit codes: 0 done, 1 it failed and stderr says why in one line, 2 the command line is wrong, 130 Ctrl-C.
"""

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from store.cli.invocation import Invocation, start_logging
from store.errors import ConfigError, StoreError

PROGRAMS_WITH_SEED_FLAGS: Final = frozenset({"master", "file-store", "mem-store"})
LINE_BREAK: Final = re.compile(r"(?<!\n)\n(?!\n)")  # one that does not end a paragraph
SINGLE_DASH_TYPO: Final = re.compile(r"^-(?=(?:peer|listen)-(?:address|cert|key|ca-cert)(?:=|$))")


class Noun(NamedTuple):
    """Where a command lives; its help is here too so that listing the commands imports none of them."""

    module: str
    attribute: str  # a function (one command) or a typer.Typer (a group)
    panel: str
    help: str


CLUSTER, OBJECTS, BLOCK, PROGRAMS = "A cluster", "Objects", "Block devices", "Programs and certificates"

NOUNS: Final[dict[str, Noun]] = {
    "up": Noun("store.cli.up", "up", CLUSTER, "Start a whole cluster in the foreground; Ctrl-C stops it."),
    "status": Noun("store.cli.status", "status", CLUSTER, "Is everything well, and if not, what is missing?"),
    "device": Noun("store.cli.device", "app", CLUSTER, "The disks of the cluster."),
    "pool": Noun("store.cli.pool", "app", CLUSTER, "Namespaces, each with its number of copies."),
    "bench": Noun("store.cli.bench", "bench", CLUSTER, "Measure this cluster from this machine."),
    "write": Noun("store.cli.object", "write", OBJECTS, "Write an object, or part of one."),
    "read": Noun("store.cli.object", "read", OBJECTS, "Read an object, or part of one."),
    "delete": Noun("store.cli.object", "delete", OBJECTS, "Delete an object."),
    "stat": Noun("store.cli.object", "stat", OBJECTS, "Size and version of an object."),
    "locate": Noun("store.cli.object", "locate", OBJECTS, "Which devices hold an object (or would)."),
    "ls": Noun("store.cli.object", "list_objects", OBJECTS, "List the objects of a pool."),
    "image": Noun("store.cli.image", "app", BLOCK, "Thin block devices kept in a pool."),
    "nbd": Noun("store.cli.nbd", "nbd", BLOCK, "Serve images over NBD, in the foreground."),
    "attach": Noun("store.cli.attach", "attach", BLOCK, "Make an image a block device here; format and mount it."),
    "detach": Noun("store.cli.attach", "detach", BLOCK, "Unmount and detach an image."),
    "master": Noun("store.cli.programs", "master", PROGRAMS, "Run the master."),
    "file-store": Noun("store.cli.programs", "file_store", PROGRAMS, "Run a storage daemon on a directory."),
    "mem-store": Noun("store.cli.programs", "mem_store", PROGRAMS, "Run a storage daemon that forgets when it ends."),
    "ca": Noun("store.cli.authority", "app", PROGRAMS, "Certificates: an authority, and what it issues."),
    "join": Noun("store.cli.join", "join", PROGRAMS, "One-time tickets by which machines and clients join."),
}


class Nouns(TyperGroup):
    """Holds a placeholder for every command, with its help line only; imports the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        noun = NOUNS.get(args[0])
        if noun is None:
            return super().resolve_command(ctx, args)
        return args[0], load(args[0], noun), args[1:]


def load(name: str, noun: Noun) -> Any:
    """The command behind a name, with its options and full help."""
    target = getattr(importlib.import_module(noun.module), noun.attribute)
    if isinstance(target, typer.Typer):
        return reflowed(typer.main.get_group(target))
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(name)(target)
    return reflowed(typer.main.get_command(app))


def reflowed(command: Any) -> Any:
    """Docstrings are wrapped for the source; a help page wraps its paragraphs for the terminal."""
    if command.help:
        command.help = LINE_BREAK.sub(" ", command.help)
    for inner in getattr(command, "commands", {}).values():
        reflowed(inner)
    return command


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - reading package metadata is slow

        print(f"store {version('hyphae')}")
        raise typer.Exit


def store(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="The cluster's client.toml; else STORE_CONFIG, ./var/client.toml, /etc/hyphae/client.toml."
        ),
    ] = None,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="-v says what is done, -vv how. STORE_LOG overrides.")
    ] = 0,
    serve_metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics there while the command runs.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One store for a few ordinary computers that loses nothing.

    Start with [bold]store up[/bold]: a whole cluster on this machine. Then, in another terminal,
    [bold]store status[/bold], [bold]store write --pool main hello --data-literal world[/bold] and
    [bold]store read --pool main hello[/bold].
    """
    context.obj = Invocation(config, verbose, serve_metrics)
    start_logging(verbose, os.environ.get("STORE_LOG", ""))


def build() -> Any:
    """The root command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)
    app.callback(cls=Nouns)(store)
    root = reflowed(typer.main.get_group(app))
    for name, noun in NOUNS.items():
        root.add_command(TyperCommand(name, help=noun.help, rich_help_panel=noun.panel))
    return root


def forgive_dashes(arguments: list[str]) -> list[str]:
    """`-peer-key` means `--peer-key`: the project's first example was printed so, and people paste it."""
    if not PROGRAMS_WITH_SEED_FLAGS.intersection(arguments):
        return arguments
    return [SINGLE_DASH_TYPO.sub("--", argument) for argument in arguments]


def main(arguments: list[str] | None = None) -> None:
    """Console entry point."""
    given = forgive_dashes(sys.argv[1:] if arguments is None else arguments)
    try:
        build().main(given, prog_name="store")
    except (StoreError, ConfigError) as error:
        sys.exit(f"store: {error}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a file or a socket of this machine, named by the error itself
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"store: {where}{error.strerror or error}")
