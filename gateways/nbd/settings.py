"""What the NBD gateway is told: nbdkit's key=value parameters."""

from pathlib import Path
from typing import Final

import msgspec

from store.addresses import Address, parse_address
from store.client.config import ClientConfig, find_config, load_config
from store.errors import ConfigError
from store.limits import CLIENT_GIVES_UP_S
from store.sizes import parse_size

DEFAULT_POOL: Final = "main"

PARAMETERS: Final = """\
config=FILE                          The cluster's client.toml (default: STORE_CONFIG, ./var, /etc/hyphae).
master=HOST:PORT                     Ask this master instead of the ones in the file.
pool=NAME                            Pool of the images (default: the file's, else main).
image=NAME                           Serve this image; repeat for several (default: all of the pool).
storage_daemon_address=HOST:PORT     A daemon of this machine that has no master.
size=SIZE                            Size of an image made there (default 10G).
timeout=SECONDS                      Fail a request that is not answered in this time (default 60).
metrics=HOST:PORT                    Serve Prometheus metrics."""


class Settings(msgspec.Struct):
    """Filled parameter by parameter, as nbdkit reads them; then `check`."""

    config: Path | None = None
    master: Address | None = None
    pool: str | None = None
    images: list[str] = []
    daemon: Address | None = None
    size: int | None = None  # bytes
    timeout_s: float = CLIENT_GIVES_UP_S
    metrics: Address | None = None

    def put(self, key: str, value: str) -> None:
        """One parameter. Raises ConfigError."""
        if key == "config":
            self.config = Path(value)
        elif key == "master":
            self.master = parse_address(value)
        elif key == "pool":
            self.pool = value
        elif key == "image":
            self.images.append(value)
        elif key in ("storage_daemon_address", "storage_daemon"):
            self.daemon = parse_address(value)
        elif key == "size":
            self.size = parse_size(value)
        elif key == "timeout":
            self.timeout_s = _seconds(value)
        elif key == "metrics":
            self.metrics = parse_address(value)
        else:
            raise ConfigError(f"unknown parameter '{key}'; there are:\n{PARAMETERS}")

    def check(self) -> None:
        """What only shows when all parameters are known. Raises ConfigError."""
        if self.daemon is not None and not self.images:
            raise ConfigError("a daemon without a master has no list of images: name one with image=NAME")
        if self.size is not None and self.daemon is None:
            raise ConfigError("size= is for storage_daemon_address=; `store image create` sets an image's size")

    def cluster(self) -> ClientConfig:
        """The configuration of the cluster. Raises ConfigError."""
        found = load_config(find_config(self.config))
        return found if self.master is None else msgspec.structs.replace(found, masters=(self.master,))


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise ConfigError(f"timeout={value}: write a number of seconds, at most 3600")
    return seconds
