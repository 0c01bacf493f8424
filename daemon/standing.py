"""What a daemon must have to be believed and to believe others.

Certificate, key and CA: given as files, kept in its directory, or got with a one-time join ticket. And what the master
told last: the secrets by which it verifies clients, and where the other devices are.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from daemon.settings import Settings
from store.control.joining import join
from store.crypto.keys import Secrets
from store.crypto.tls import Credentials
from store.errors import ConfigError
from store.placement.storage_map import Device

CERTIFICATE: Final = "daemon.crt"
PRIVATE_KEY: Final = "daemon.key"
AUTHORITY: Final = "ca.crt"
SECRETS: Final = "secrets.json"
DEVICES: Final = "devices.json"


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


def keep_secrets(directory: Path, given: Secrets) -> None:
    """The device's secrets of the present key epochs, readable by their owner only."""
    _write(directory / SECRETS, msgspec.json.encode(given).decode())


def kept_secrets(directory: Path) -> Secrets:
    """What `keep_secrets` kept; none if there is no such file, or it is not whole: the master gives them again."""
    try:
        return msgspec.json.decode((directory / SECRETS).read_bytes(), type=Secrets)
    except (FileNotFoundError, msgspec.DecodeError):
        return Secrets(0, {})


def keep_devices(directory: Path, devices: tuple[Device, ...]) -> None:
    """Where the other devices are, as the last map said."""
    _write(directory / DEVICES, msgspec.json.encode(devices).decode())


def kept_devices(directory: Path) -> tuple[Device, ...]:
    """What `keep_devices` kept, or nothing: the next map says it."""
    try:
        return msgspec.json.decode((directory / DEVICES).read_bytes(), type=tuple[Device, ...])
    except (FileNotFoundError, msgspec.DecodeError):
        return ()


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
