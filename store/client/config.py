"""Where the cluster is and who we are: the client's one configuration file.

master = ["10.0.0.5:4010"]     # one address or several
ca     = "ca.crt"              # paths are relative to this file
cert   = "client.crt"
key    = "client.key"
pool   = "main"                # used where no pool is named; optional
"""

import os
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from store.addresses import Address, format_address, parse_address
from store.errors import ConfigError

VARIABLE: Final = "STORE_CONFIG"
PLACES: Final = (Path("var/client.toml"), Path("/etc/hyphae/client.toml"))


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file as written."""

    master: str | list[str]
    ca: str
    cert: str
    key: str
    pool: str | None = None


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was read and whose files exist; paths are absolute."""

    path: Path
    masters: tuple[Address, ...]
    ca: Path
    cert: Path
    key: Path
    pool: str | None = None

    def tls(self) -> ssl.SSLContext:
        """The context for connections to the master. Raises ConfigError when certificate, key or CA do not fit."""
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"{self.ca} is not a CA certificate in PEM form: {_reason(error)}") from error
        context.check_hostname = False  # the cluster's CA signs nobody else; masters are known by it, not by names
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(str(self.cert), str(self.key), password=_no_password)
        except ssl.SSLError as error:
            raise ConfigError(
                f"{self.key} is not the private key of {self.cert}: check `key` and `cert` in {self.path}"
                f" ({_reason(error)})"
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot read {self.cert} or {self.key}: {_reason(error)}") from error
        return context


def find_config(given: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The file to use: the given one, else $STORE_CONFIG, else the first of `PLACES` there is. Raises ConfigError."""
    named = given or (Path(environment[VARIABLE]) if environment.get(VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"no configuration file {named}: `store up` writes one into its directory")
        return named
    for place in PLACES:
        if place.is_file():
            return place
    tried = ", ".join(str(place) for place in PLACES)
    raise ConfigError(
        f"no cluster is configured (no --config, no {VARIABLE}, none of {tried}): start one with `store up`"
    )


def load_config(path: Path) -> ClientConfig:
    """Reads and checks the file. Raises ConfigError, one line that names the file and the field."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {_reason(error)}") from error
    try:
        written = msgspec.convert(tomllib.loads(raw.decode()), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
    addresses = [written.master] if isinstance(written.master, str) else written.master
    if not addresses:
        raise ConfigError(f"{path}: `master` names no address; write HOST:PORT")
    return ClientConfig(
        path=path.absolute(),
        masters=tuple(parse_address(address) for address in addresses),
        ca=_existing(path, "ca", written.ca),
        cert=_existing(path, "cert", written.cert),
        key=_existing(path, "key", written.key),
        pool=written.pool,
    )


def render_config(masters: tuple[Address, ...], ca: str, cert: str, key: str, pool: str | None) -> str:
    """The text of a configuration file; paths may be relative to where it will stand."""
    lines = [f"master = [{', '.join(_quoted(format_address(address)) for address in masters)}]"]
    lines += [f"{field} = {_quoted(value)}" for field, value in (("ca", ca), ("cert", cert), ("key", key))]
    if pool is not None:
        lines.append(f"pool = {_quoted(pool)}")
    return "\n".join(lines) + "\n"


def _existing(config: Path, field: str, value: str) -> Path:
    path = (config.parent / Path(value).expanduser()).absolute()
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ConfigError(f"{config}: cannot read `{field}` = {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _no_password() -> str:
    """Keys of daemons and clients are plain files; asking at a terminal would hang a gateway."""
    return ""
