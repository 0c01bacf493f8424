"""Starts nbdkit with this plugin, in an environment in which the Python that it embeds finds the right packages.

The embedded interpreter looks for `python3` on PATH to learn where its standard library is: with a foreign one first
(an activated environment, pyenv) it mixes two Pythons and fails. So nbdkit gets an environment with next to nothing.
"""

import argparse
import os
import shutil
import socket
import stat
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateways.nbd.export import Gateway
from gateways.nbd.settings import Settings
from store.addresses import Address, parse_address
from store.errors import ConfigError
from store.logs import configure_log

_PLUGIN: Final = Path(__file__).with_name("plugin.py")
_CLEAN_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON: Final = ("HOME", "LANG", "TZ", "XDG_RUNTIME_DIR", "STORE_CONFIG", "STORE_LOG", "STORE_RUN")
_THREADS: Final = 16  # of one NBD connection: its depth here


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="store nbd", description="Serve images over NBD.")
    parser.add_argument("--config", type=Path, help="the cluster's client.toml")
    parser.add_argument("--pool")
    parser.add_argument("--image", action="append", default=[], help="repeat for several; default: all of the pool")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", type=Path, help="listen on this Unix socket")
    where.add_argument("--listen", help="HOST:PORT to listen on")
    parser.add_argument("--storage-daemon", help="HOST:PORT of a daemon of this machine without a master")
    parser.add_argument("--size", help="size of an image that is made there")
    parser.add_argument("--read-only", action="store_true", help="take no lock and refuse writes")
    parser.add_argument("--timeout", help="seconds after which a request fails (default 60)")
    parser.add_argument("--serve-metrics", help="HOST:PORT for Prometheus")
    parser.add_argument("-v", "--verbose", action="count", default=0)
    return parser.parse_args(arguments)


def plugin_parameters(given: argparse.Namespace) -> list[str]:
    """The arguments as nbdkit's key=value parameters."""
    named = (
        ("config", given.config and given.config.absolute()),
        ("pool", given.pool),
        ("storage_daemon_address", given.storage_daemon),
        ("size", given.size),
        ("timeout", given.timeout),
        ("metrics", given.serve_metrics),
    )
    parameters = [f"{key}={value}" for key, value in named if value is not None]
    return parameters + [f"image={image}" for image in given.image]


def command(given: argparse.Namespace) -> list[str]:
    """The command line of nbdkit. Raises ConfigError."""
    program = shutil.which("nbdkit", path=_CLEAN_PATH)
    if program is None:
        raise ConfigError("nbdkit is missing: apt-get install nbdkit nbdkit-plugin-python")
    line = [program, "--foreground", "--threads", str(_THREADS)]
    if given.socket is not None:
        line += ["--unix", str(given.socket.absolute())]
    else:
        host, port = parse_address(given.listen)
        line += ["--ipaddr", host, "--port", str(port)]
    if given.read_only:
        line.append("--read-only")
    if given.verbose > 1:
        line.append("--verbose")
    return [*line, "python", str(_PLUGIN), *plugin_parameters(given)]


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What nbdkit is given: nothing that could lead its Python astray."""
    kept = {name: environment[name] for name in _PASSED_ON if name in environment}
    site_packages = sysconfig.get_paths()["purelib"]
    return {"PATH": _CLEAN_PATH, "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1", "HYPHAE_SITE": site_packages, **kept}


def check(parameters: list[str]) -> None:
    """Everything that can be wrong is told here, before nbdkit hides it among its own lines."""
    settings = Settings()
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key != "metrics":
            settings.put(key, value)
    settings.check()
    gateway = Gateway(settings)
    gateway.start()
    gateway.stop()


def free_socket(path: Path) -> None:
    """Removes a socket that nobody listens on any more. Raises ConfigError if somebody does, or it is no socket."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"{path} exists and is no socket: choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"somebody serves NBD on {path} already: stop that first, or choose another path")


def require_free(address: Address) -> None:
    """Raises ConfigError when the port is taken."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            text = f"cannot listen on {address[0]}:{address[1]}: {(error.strerror or str(error)).lower()}"
            raise ConfigError(text) from error


def main(arguments: list[str]) -> None:
    """Becomes nbdkit; returns only by raising ConfigError or StoreError."""
    given = parse_arguments(arguments)
    configure_log()
    line = command(given)
    if given.socket is not None:
        free_socket(given.socket)
    else:
        require_free(parse_address(given.listen))
    check(plugin_parameters(given))
    environment = clean_environment(os.environ)
    if given.verbose:
        environment.setdefault("STORE_LOG", "debug" if given.verbose > 1 else "info")
    if given.verbose:
        print(f"store: {' '.join(line)}", file=sys.stderr)
    os.execve(line[0], line, environment)
