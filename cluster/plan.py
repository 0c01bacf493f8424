"""What a local cluster consists of: directories, ports, and what is remembered between two `store up`."""

import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from store.addresses import Address, format_address
from store.errors import ConfigError

HOST: Final = "127.0.0.1"
DAEMONS_MAX: Final = 32
JOURNAL: Final = "64M"
SHARE: Final = 0.8  # of what is free on the disk
STATE: Final = "cluster.json"

# Ports above the base: the founding document's master listens on 4000 and 4010, its daemon on 4148 and 4149.
MASTER_PEER, MASTER_CLIENT, METRICS, DAEMON = 0, 10, 20, 148


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What is asked for. Paths are absolute."""

    directory: Path
    daemons: int
    replicas: int
    port_base: int
    images: tuple[tuple[str, int], ...] = ()  # name, bytes: made if missing
    nbd: bool = True
    metrics: bool = False

    @property
    def client_config(self) -> Path:
        return self.directory / "client.toml"

    @property
    def nbd_socket(self) -> Path:
        return self.directory / "nbd.sock"

    def daemon_directory(self, number: int) -> Path:
        return self.directory / daemon_name(number)

    def log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"

    def master_peer(self) -> Address:
        return (HOST, self.port_base + MASTER_PEER)

    def master_client(self) -> Address:
        return (HOST, self.port_base + MASTER_CLIENT)

    def daemon_client(self, number: int) -> Address:
        return (HOST, self.port_base + DAEMON + 2 * (number - 1))

    def daemon_peer(self, number: int) -> Address:
        return (HOST, self.port_base + DAEMON + 2 * (number - 1) + 1)

    def metrics_address(self, place: int) -> str | None:
        """Of the master (0), the daemons (their numbers), the NBD gateway (the number after)."""
        return format_address((HOST, self.port_base + METRICS + place)) if self.metrics else None

    def capacity(self) -> int:
        """Bytes each new daemon may hold: they share one disk, so that what they promise together is there."""
        state = os.statvfs(self.directory)
        return int(state.f_bavail * state.f_frsize * SHARE) // self.daemons

    def numbers(self) -> range:
        return range(1, self.daemons + 1)

    def check_ports(self) -> None:
        """Raises ConfigError naming the first port that is taken."""
        if not 1 <= self.port_base <= 65_535 - DAEMON - 2 * DAEMONS_MAX:
            raise ConfigError(f"--port-base {self.port_base} leaves no room for the ports above it; try 4000")
        wanted = [(socket.SOCK_STREAM, self.master_peer()), (socket.SOCK_STREAM, self.master_client())]
        for number in self.numbers():
            wanted.append((socket.SOCK_DGRAM, self.daemon_client(number)))
            wanted.append((socket.SOCK_STREAM, self.daemon_peer(number)))
        for kind, address in wanted:
            with socket.socket(socket.AF_INET, kind) as sock:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind(address)
                except OSError as error:
                    raise ConfigError(
                        f"{format_address(address)} is in use by another program: stop it, or give another --port-base"
                    ) from error


class State(msgspec.Struct, kw_only=True):
    """`cluster.json`: what the directory holds, and what runs now (for `store bench`, for people)."""

    version: int = 1
    daemons: int = 0
    port_base: int = 0
    processes: dict[str, int] = {}  # name -> process id
    nbd_socket: str = ""

    def save(self, directory: Path) -> None:
        partial = directory / (STATE + ".new")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        partial.replace(directory / STATE)


def daemon_name(number: int) -> str:
    return f"daemon{number}"


def load_state(directory: Path) -> State | None:
    """What a former `store up` left. None: the directory is new or empty. Raises ConfigError for a foreign one."""
    try:
        return msgspec.json.decode((directory / STATE).read_bytes(), type=State)
    except FileNotFoundError:
        if directory.is_dir() and any(path.name != "up.lock" for path in directory.iterdir()):
            raise ConfigError(f"{directory} is not empty and holds no cluster: give another --dir") from None
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read {directory / STATE}: {error}") from error
