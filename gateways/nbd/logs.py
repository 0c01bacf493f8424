"""The gateway's log: lines on stderr, from the level that STORE_LOG names (error, warn, info, debug) upward."""

import logging
import sys
from typing import Final

import structlog

LEVELS: Final = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


def start_logging(named: str) -> None:
    """An empty or unknown name: warnings and errors."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS.get(named.lower(), logging.WARNING)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
