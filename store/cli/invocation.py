"""What the options before the command's name say: which cluster, how much to tell."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Final

LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Invocation:
    """Kept as `obj` of the command line's context."""

    config: Path | None = None  # --config as given; None: look in the usual places
    verbosity: int = 0
    serve_metrics: str | None = None

    def flags(self) -> list[str]:
        """The same options for a program started on the user's behalf."""
        return ["-v"] * self.verbosity


def start_logging(verbosity: int, named: str) -> None:
    """Log to stderr. `named` (STORE_LOG: error, warn, info, debug) wins over the count of -v."""
    level = LEVELS.get(named.lower(), (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname).1s %(name)s: %(message)s")
