"""`python -m cluster`: what `store up` becomes. Its options are checked there; here they are only read."""

import argparse
import logging
import sys
from pathlib import Path

import structlog

from cluster.plan import DAEMONS_MAX, Plan, load_state
from cluster.up import up
from store.errors import ConfigError, StoreError
from store.sizes import parse_size

DAEMONS, REPLICAS, PORT_BASE = 3, 3, 4000


def parse(arguments: list[str]) -> Plan:
    """The plan; what is not given is as it was the last time, or the default. Raises ConfigError."""
    parser = argparse.ArgumentParser(prog="store up", description="A whole cluster on this machine.")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--daemons", type=int)
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--port-base", type=int)
    parser.add_argument("--image", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--no-nbd", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    given = parser.parse_args(arguments)
    directory = given.dir.absolute()
    state = load_state(directory)
    daemons = given.daemons if given.daemons is not None else (state.daemons if state else 0) or DAEMONS
    replicas = given.replicas if given.replicas is not None else min(REPLICAS, daemons)
    if not 1 <= daemons <= DAEMONS_MAX:
        raise ConfigError(f"--daemons {daemons}: a local cluster has 1 to {DAEMONS_MAX}")
    if not 1 <= replicas <= daemons:
        raise ConfigError(f"--replicas {replicas}: {daemons} daemons can keep 1 to {daemons} copies")
    base = given.port_base if given.port_base is not None else (state.port_base if state else 0) or PORT_BASE
    return Plan(
        directory=directory,
        daemons=daemons,
        replicas=replicas,
        port_base=base,
        images=tuple(_image(text) for text in given.image),
        nbd=not given.no_nbd,
        metrics=given.metrics,
    )


def _image(text: str) -> tuple[str, int]:
    name, separator, size = text.partition("=")
    if not name or not separator:
        raise ConfigError(f"--image {text}: write NAME=SIZE, for example book=2G")
    return name, parse_size(size)


def main(arguments: list[str]) -> int:
    """Exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        up(parse(arguments))
    except (ConfigError, StoreError) as error:
        print(f"store: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
