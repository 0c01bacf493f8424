"""The log of a program that runs for long: one line an event on standard error."""

import logging
import os
import sys

import structlog


def configure_log() -> None:
    """STORE_LOG (error, warning, info, debug) says from which level on; the default is info."""
    level = getattr(logging, os.environ.get("STORE_LOG", "info").upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
