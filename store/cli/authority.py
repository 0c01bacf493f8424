"""`store ca`: certificates without any other tool: an authority, and what it issues."""

import datetime
import os
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from store.cli.output import say
from store.crypto.identity import DAEMON, MASTER, Role, client_role
from store.crypto.pki import CERTIFICATE_DAYS, Authority, create_authority, create_key, create_request, issue
from store.crypto.tls import read_pem
from store.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Certificates: an authority, and what it issues.\n\n"
    "[bold]store up[/bold] and [bold]store join[/bold] do this by themselves. By hand: "
    "[bold]store ca init[/bold], then [bold]store ca issue master1[/bold] and "
    "[bold]store ca issue storage001[/bold]; the files appear in ./tls.",
)

Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the files are.")]
TLS = Path("tls")


class Kind(StrEnum):
    MASTER = "master"
    DAEMON = "daemon"
    CLIENT = "client"


@app.command()
def init(directory: Directory = TLS) -> None:
    """Make a new authority: DIR/ca.crt, which everybody gets, and DIR/ca.key, which nobody else may have."""
    certificate, key = directory / "ca.crt", directory / "ca.key"
    if certificate.exists() or key.exists():
        raise ConfigError(f"{certificate} is there already: a new authority would make every certificate worthless")
    authority = create_authority(secrets.token_bytes(16), _now())
    directory.mkdir(parents=True, exist_ok=True)
    write_private(key, authority.private_key)
    certificate.write_text(authority.certificate)
    say(f"{certificate} and {key}; next: `store ca issue master1`")


@app.command("issue")
def issue_certificate(
    name: Annotated[str, typer.Argument(help="Name of the files, and of the client if it is one.")],
    role: Annotated[
        Kind | None, typer.Option(help="Default: master if the name begins with 'master', otherwise daemon.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME|IP", help="Also valid for this host, for programs that check.")
    ] = None,
    days: Annotated[int, typer.Option(help="Days until it ends.")] = CERTIFICATE_DAYS,
    directory: Directory = TLS,
) -> None:
    """Issue DIR/NAME.crt and DIR/NAME.key from DIR/ca.crt and DIR/ca.key."""
    if "/" in name or name in ("", "ca", ".", ".."):
        raise ConfigError(f"'{name}' cannot be the name of a certificate")
    authority = Authority(read_pem(directory / "ca.crt", "CERTIFICATE"), read_pem(directory / "ca.key", "PRIVATE KEY"))
    key = create_key()
    certificate = issue(authority, _role(name, role), create_request(key), _now(), days, host or ())
    write_private(directory / f"{name}.key", key)
    (directory / f"{name}.crt").write_text(certificate)
    say(f"{directory / name}.crt and {directory / name}.key")


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read, complete or not there at all."""
    partial = path.with_name(path.name + ".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def _role(name: str, kind: Kind | None) -> Role:
    if kind == Kind.CLIENT:
        return client_role(name)
    if kind == Kind.MASTER or (kind is None and name.startswith("master")):
        return MASTER
    return DAEMON


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
