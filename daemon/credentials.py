"""Certificate, key and CA of a daemon: given as files, kept in its directory, or got with a one-time join ticket."""

import os
from pathlib import Path
from typing import Final

from daemon.settings import Settings
from store.control.joining import join
from store.crypto.tls import Credentials
from store.errors import ConfigError

CERTIFICATE: Final = "daemon.crt"
PRIVATE_KEY: Final = "daemon.key"
AUTHORITY: Final = "ca.crt"


async def obtain(settings: Settings) -> Credentials:
    """Raises ConfigError saying what to give, StoreError if joining fails."""
    if settings.certificate or settings.private_key or settings.authority:
        if not (settings.certificate and settings.private_key and settings.authority):
            raise ConfigError("a daemon with a master needs all three: --cert, --key and --ca")
        return Credentials.read(settings.certificate, settings.private_key, settings.authority)
    directory = settings.directory
    if (directory / CERTIFICATE).exists():
        return Credentials.read(directory / CERTIFICATE, directory / PRIVATE_KEY, directory / AUTHORITY)
    if settings.join is None:
        raise ConfigError(
            f"{directory} has no certificate yet: make a ticket with `store join --new` on a machine of the cluster,"
            " then start the daemon with --join TICKET"
        )
    _, credentials = await join(settings.join)
    _keep(directory, credentials)
    return credentials


def _keep(directory: Path, credentials: Credentials) -> None:
    """The certificate comes last: with it the set is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / PRIVATE_KEY, credentials.private_key)
    _write(directory / AUTHORITY, credentials.authority)
    _write(directory / CERTIFICATE, credentials.certificate)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
