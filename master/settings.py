"""What a master is told when it starts: one directory, where to listen, whose certificates."""

import argparse
from pathlib import Path

import msgspec

from store.addresses import Address, parse_address

DEFAULT_LISTEN = "127.0.0.1:4010"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are as given; addresses are (host, port), port 0 = any free one."""

    directory: Path
    listen: Address  # for clients
    peer_listen: Address | None = None  # for daemons; None: they use the same port as clients
    advertise: str = ""  # host that others reach this machine at
    certificate: Path | None = None  # shown to clients; default: the one shown to daemons
    private_key: Path | None = None
    peer_certificate: Path | None = None  # shown to daemons; default: from the built-in CA
    peer_private_key: Path | None = None
    authority: Path | None = None
    authority_key: Path | None = None
    restored: int | None = None
    client_config: Path | None = None
    client_pool: str | None = None
    metrics: Address | None = None


def parse_arguments(arguments: list[str]) -> Settings:
    """The command line of `python -m master`. Raises ConfigError; argparse itself ends with 2 on misuse."""
    parser = argparse.ArgumentParser(
        prog="master", description="The master of a cluster: map, keys, locks. Data never pass through it."
    )
    parser.add_argument("--dir", required=True, type=Path, help="its state; made if missing")
    parser.add_argument("--listen", default=DEFAULT_LISTEN, help="HOST:PORT for clients (TCP)")
    parser.add_argument("--peer-listen", help="HOST:PORT for daemons (TCP; default: the same as --listen)")
    parser.add_argument("--advertise", default="", help="host that others reach this machine at (default: a guess)")
    parser.add_argument("--cert", type=Path, help="certificate shown to clients")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--peer-cert", type=Path, help="certificate shown to daemons (default: of the built-in CA)")
    parser.add_argument("--peer-key", type=Path)
    parser.add_argument("--ca", type=Path, help="the CA that signed everybody")
    parser.add_argument("--ca-key", type=Path, help="its key: lets this master issue certificates")
    parser.add_argument("--restored", type=int, metavar="GENERATION", help="the directory is an older copy; any number"
                        " above all recovery generations this cluster ever had (`store status` shows it)")  # fmt: skip
    parser.add_argument("--client-config", type=Path, help="write an administrator's client.toml there")
    parser.add_argument("--client-pool", help="the pool that file names as default")
    parser.add_argument("--serve-metrics", help="HOST:PORT for Prometheus")
    parser.add_argument("-v", action="count", default=0, help="log more")
    given = parser.parse_args(arguments)
    return Settings(
        directory=given.dir,
        listen=parse_address(given.listen),
        peer_listen=parse_address(given.peer_listen) if given.peer_listen else None,
        advertise=given.advertise,
        certificate=given.cert,
        private_key=given.key,
        peer_certificate=given.peer_cert,
        peer_private_key=given.peer_key,
        authority=given.ca,
        authority_key=given.ca_key,
        restored=given.restored,
        client_config=given.client_config,
        client_pool=given.client_pool,
        metrics=parse_address(given.serve_metrics) if given.serve_metrics else None,
    )
