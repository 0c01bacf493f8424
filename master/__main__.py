"""`python -m master`: a master in the foreground. `store master` and `store up` start it so."""

import logging
import os
import sys

import structlog
import uvloop

from master.metastore.interface import StoreFailed
from master.server import Master
from master.settings import Settings, parse_arguments
from store.addresses import format_address
from store.errors import ConfigError, StoreError


def configure_log() -> None:
    """One line an event on standard error; STORE_LOG says from which level on."""
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


async def serve(settings: Settings) -> None:
    master = Master(settings)
    try:
        await master.start()
        clients, daemons = format_address(master.address), format_address(master.peer_address)
        print(f"master of cluster {master.cluster.id.hex()}: clients at {clients}, daemons at {daemons}", flush=True)
        await master.run_until_stopped()
    finally:
        await master.stop()


def main(arguments: list[str]) -> int:
    configure_log()
    try:
        uvloop.run(serve(parse_arguments(arguments)))
    except (ConfigError, StoreError, StoreFailed) as error:
        print(f"master: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
