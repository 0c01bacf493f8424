"""A storage daemon without a master, and how programs on its machine reach it.

Such a daemon writes one *access file* into the runtime directory of its user, readable by that user alone. Whoever can
read it may do everything there, and nobody else can: the file carries the device's secret, from which a client makes
its own tickets. The daemon may listen on any address; without the file there is no talking to it.

The map in the file has one pool, `POOL`, with the daemon as the only member of each group. Pools have no registry here,
so any pool name is good: the objects of pool P are the map's objects named `P/...` (`object_name`).
"""

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from store.addresses import Address, format_address
from store.errors import ConfigError

POOL: Final = "*"
POOL_NUMBER: Final = 1
VERSION: Final = 1
_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class Access(msgspec.Struct, frozen=True):
    """The access file's content, as JSON; bytes are base64."""

    version: int
    listen: Address  # where the daemon receives; a wildcard host stands for every address of the machine
    device: bytes  # id of the device
    key_epoch: int
    secret: bytes  # the device's secret of that key epoch
    storage_map: bytes  # a StorageMap in MessagePack
    process: int  # id of the daemon's process


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """This user's directory for what lives as long as processes do, mode 0700. Raises ConfigError if it is not ours."""
    base = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    path = Path(base, "hyphae") if os.access(base, os.W_OK | os.X_OK) else Path(f"/tmp/hyphae-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        state = path.lstat()
    except OSError as error:
        raise ConfigError(f"cannot make the runtime directory {path}: {error.strerror}") from error
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise ConfigError(f"{path} is not a directory that only this user can enter: remove it and try again")
    return path


def publish(access: Access, directory: Path | None = None) -> Path:
    """Writes the access file of a daemon that begins to serve; one of an earlier life goes. Returns its path."""
    folder = runtime_directory() if directory is None else directory
    path = _path(folder, access.listen)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".access-")  # created with mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(access))
    os.replace(temporary, path)
    return path


def withdraw(access: Access, directory: Path | None = None) -> None:
    """Removes the access file at the end of a daemon, unless another process has replaced it."""
    path = _path(runtime_directory() if directory is None else directory, access.listen)
    try:
        if msgspec.json.decode(path.read_bytes(), type=Access).process == access.process:
            path.unlink()
    except (FileNotFoundError, msgspec.DecodeError):
        return


def discover(address: Address, directory: Path | None = None) -> Access:
    """The access file of the daemon at `address`. Raises ConfigError when this user on this machine has none."""
    path = _path(runtime_directory() if directory is None else directory, address)
    shown = format_address(address)
    try:
        access = msgspec.json.decode(path.read_bytes(), type=Access)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no storage daemon without a master runs as this user on this machine at {shown} ({path} is missing):"
            " start one with `store file-store`, or give --config for a cluster"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot use {path}: {error}") from error
    if access.version != VERSION:
        raise ConfigError(f"{path} is of another version of the daemon: restart it")
    if not _same_machine(access.listen[0], address[0]):
        raise ConfigError(f"the daemon at port {address[1]} listens on {access.listen[0]}, not on {address[0]}")
    return access


def object_name(pool: str, name: bytes) -> bytes:
    """How an object of pool `pool` is called in the only pool of a daemon without a master."""
    return pool.encode() + b"/" + name


def _path(folder: Path, address: Address) -> Path:
    return folder / f"direct-{address[1]}.json"


def _same_machine(listening: str, asked: str) -> bool:
    return asked == listening or listening in _WILDCARDS or (asked in _LOCAL and listening in _LOCAL)
