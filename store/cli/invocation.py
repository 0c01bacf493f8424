"""What the options before the command's name say: which cluster, how much to tell."""

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Final

import structlog

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

    def pass_on(self) -> None:
        """Let a program that this process becomes tell as much: they listen to STORE_LOG."""
        if self.verbosity:
            os.environ.setdefault("STORE_LOG", "debug" if self.verbosity > 1 else "info")


def start_logging(verbosity: int, named: str) -> None:
    """Log to stderr. `named` (STORE_LOG: error, warn, info, debug) wins over the count of -v."""
    level = LEVELS.get(named.lower(), (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
