"""How the command line shows things: tables for people, JSON for programs, progress where it takes long."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

RIGHT: Final = ">"  # a heading that begins so is of a column of numbers


def show_json(value: Any) -> None:
    """One document on stdout; bytes as hex."""
    json.dump(value, sys.stdout, indent=2, default=lambda item: item.hex() if isinstance(item, bytes) else str(item))
    sys.stdout.write("\n")


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """A table on stdout, or `empty` when there is nothing to list. Cells are plain text, not markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading.lstrip(RIGHT), justify="right" if heading.startswith(RIGHT) else "left", no_wrap=True)
    count = 0
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
        count += 1
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200, highlight=False)
    if count:
        console.print(table)
    else:
        print(empty)


def say(text: str) -> None:
    """A line about what was done, on stderr, so that stdout stays clean for data."""
    print(text, file=sys.stderr)


def transfer_progress(what: str) -> Progress:
    """A bar for bytes on stderr; shows only on a terminal."""
    return Progress(
        TextColumn(what),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def seconds(duration: float) -> str:
    """`75` -> `1 min 15 s`."""
    if duration < 60:
        return f"{duration:.0f} s"
    if duration < 3600:
        return f"{duration // 60:.0f} min {duration % 60:.0f} s"
    return f"{duration // 3600:.0f} h {duration % 3600 // 60:.0f} min"
