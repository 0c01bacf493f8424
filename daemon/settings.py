"""What a daemon is told when it starts: one directory, two addresses, where its master is."""

import argparse
from pathlib import Path

import msgspec

from store.addresses import Address, parse_address
from store.limits import MIB
from store.sizes import parse_size


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are as given; sizes in bytes; addresses are (host, port), port 0 = any free one."""

    directory: Path
    listen: Address
    peer_listen: Address
    master: Address | None = None  # None: stand alone, serving this machine only
    certificate: Path | None = None  # default: the one in the directory, got by joining
    private_key: Path | None = None
    authority: Path | None = None
    join: str | None = None  # a one-time join ticket, used when the directory holds no certificate
    zone: str = ""
    host: str = ""
    capacity: int | None = None  # default: half of what is free on the directory's file system
    journal: int = 256 * MIB
    metrics: Address | None = None
    datagrams: str = "drain"  # or "asyncio-dgram"
    in_memory: bool = False  # the directory is on tmpfs and goes away with the process


def parse_arguments(arguments: list[str]) -> Settings:
    """The command line of `python -m daemon`. Raises ConfigError; argparse itself ends with 2 on misuse."""
    parser = argparse.ArgumentParser(prog="daemon", description="One storage daemon: one directory, one disk.")
    parser.add_argument("--dir", required=True, type=Path, help="directory on the disk to serve; made if missing")
    parser.add_argument("--listen", required=True, help="HOST:PORT for clients (UDP)")
    parser.add_argument("--peer-listen", default="127.0.0.1:0", help="HOST:PORT for other daemons (TCP)")
    parser.add_argument("--master", help="HOST:PORT of the master; without it the daemon stands alone")
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--join", help="one-time join ticket from `store join`")
    parser.add_argument("--zone", default="", help="failure domain: devices of one zone may fail together")
    parser.add_argument("--host", default="", help="machine the device is in (default: this machine's name)")
    parser.add_argument("--capacity", help="most bytes of objects to hold (default: half of what is free)")
    parser.add_argument("--journal", default="256M", help="size of the journal, fixed when the directory is made")
    parser.add_argument("--serve-metrics", help="HOST:PORT for Prometheus")
    parser.add_argument("--datagrams", choices=("drain", "asyncio-dgram"), default="drain")
    parser.add_argument("--memory", action="store_true", help="the directory is thrown away at the end")
    given = parser.parse_args(arguments)
    return Settings(
        directory=given.dir,
        listen=parse_address(given.listen),
        peer_listen=parse_address(given.peer_listen),
        master=parse_address(given.master) if given.master else None,
        certificate=given.cert,
        private_key=given.key,
        authority=given.ca,
        join=given.join,
        zone=given.zone,
        host=given.host,
        capacity=parse_size(given.capacity) if given.capacity else None,
        journal=parse_size(given.journal),
        metrics=parse_address(given.serve_metrics) if given.serve_metrics else None,
        datagrams=given.datagrams,
        in_memory=given.memory,
    )
