"""The master's directory: made on first use, with a CA of its own unless certificates are given.

ca.crt ca.key          the cluster's CA; whoever has the key can let others in
master.crt master.key  what this master shows
admin.crt admin.key    the first client, which may do everything
master.db              the MetaStore
lock                   held while a master runs here
"""

import datetime
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

import structlog

from master.core.principals import ADMIN
from master.office import Signer
from master.settings import Settings
from store.addresses import Address
from store.crypto.identity import MASTER, Role, client_role
from store.crypto.tls import Credentials, cluster_of, read_pem
from store.errors import ConfigError

log = structlog.get_logger()

_OURS: Final = frozenset({
    "ca.crt", "ca.key", "master.crt", "master.key", f"{ADMIN}.crt", f"{ADMIN}.key", "lock",
    "master.db", "master.db-wal", "master.db-shm",
})  # fmt: skip


class Home:
    """An open directory; `close` lets another master have it."""

    def __init__(self, directory: Path, lock: int, for_daemons: Credentials, for_clients: Credentials) -> None:
        self.directory, self._lock = directory, lock
        self.for_daemons, self.for_clients = for_daemons, for_clients
        self.cluster = cluster_of(for_daemons.authority)
        self.signer: Signer | None = None

    @property
    def database(self) -> Path:
        return self.directory / "master.db"

    def close(self) -> None:
        os.close(self._lock)


def open_home(settings: Settings) -> Home:
    """Raises ConfigError: in use, not a master's directory, certificates that cannot be used."""
    directory = settings.directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(directory)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {directory}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(f"a master runs in {directory} already") from error
    try:
        home = _given(settings, lock) if _is_given(settings) else _own(directory, lock)
    except BaseException:
        os.close(lock)
        raise
    return home


def write_client_config(home: Home, path: Path, masters: tuple[Address, ...], pool: str | None) -> None:
    """An administrator's client.toml. Raises ConfigError."""
    from store.client.config import render_config  # noqa: PLC0415 - only where asked for

    if not (home.directory / f"{ADMIN}.crt").exists():
        raise ConfigError("--client-config needs the built-in CA: leave the certificates out")
    folder = os.path.relpath(home.directory, path.parent)
    text = render_config(masters, f"{folder}/ca.crt", f"{folder}/{ADMIN}.crt", f"{folder}/{ADMIN}.key", pool)
    try:
        write_file(path, text, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def write_file(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, durable when it returns."""
    partial = path.with_name(path.name + ".new")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _refuse_foreign(directory: Path) -> None:
    foreign = sorted(entry.name for entry in directory.iterdir() if entry.name.removesuffix(".new") not in _OURS)
    if foreign and not (directory / "master.db").exists():
        raise ConfigError(f"{directory} is no master's directory (it has {foreign[0]}): choose another")


def _is_given(settings: Settings) -> bool:
    return any((settings.peer_certificate, settings.peer_private_key, settings.authority))


def _given(settings: Settings, lock: int) -> Home:
    certificate, key, authority = settings.peer_certificate, settings.peer_private_key, settings.authority
    if certificate is None or key is None or authority is None:
        raise ConfigError("give all three of --peer-cert, --peer-key and --peer-ca-cert, or none to use a built-in CA")
    for_daemons = for_clients = Credentials.read(certificate, key, authority)
    if settings.certificate is not None and settings.private_key is not None:
        for_clients = Credentials.read(settings.certificate, settings.private_key, authority)
    elif settings.certificate is not None or settings.private_key is not None:
        raise ConfigError("give both --listen-cert and --listen-key, or neither")
    home = Home(settings.directory, lock, for_daemons, for_clients)
    if settings.authority_key is not None:
        home.signer = Signer(for_daemons.authority, read_pem(settings.authority_key, "PRIVATE KEY"))
    return home


def _own(directory: Path, lock: int) -> Home:
    if not (directory / "ca.crt").exists():
        if (directory / "master.db").exists():
            raise ConfigError(f"{directory} has lost ca.crt: put it back, or give --peer-cert, --peer-key and --ca")
        _found(directory)
    credentials = Credentials.read(directory / "master.crt", directory / "master.key", directory / "ca.crt")
    home = Home(directory, lock, credentials, credentials)
    if (directory / "ca.key").exists():
        home.signer = Signer(credentials.authority, read_pem(directory / "ca.key", "PRIVATE KEY"))
    return home


def _found(directory: Path) -> None:
    """A new cluster. ca.crt comes last: without it the next start begins anew, and nobody has seen the rest."""
    from store.crypto import pki  # noqa: PLC0415 - X.509 takes 16 MiB

    cluster = secrets.token_bytes(16)
    authority = pki.create_authority(cluster, datetime.datetime.now(datetime.UTC))
    signer = Signer(authority.certificate, authority.private_key)
    write_file(directory / "ca.key", authority.private_key, 0o600)
    for name, role in (("master", MASTER), (ADMIN, client_role(ADMIN))):
        _issue(directory, signer, name, role)
    write_file(directory / "ca.crt", authority.certificate, 0o644)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(handle)
    os.close(handle)
    log.info("a new cluster was founded", cluster=cluster.hex(), directory=str(directory))


def _issue(directory: Path, signer: Signer, name: str, role: Role) -> None:
    certificate, key = signer.issue_with_key(role)
    write_file(directory / f"{name}.key", key, 0o600)
    write_file(directory / f"{name}.crt", certificate, 0o644)
