"""TLS 1.3 with certificates on both sides, verified against the cluster's CA alone.

Host names are not checked: machines move between addresses, and the role in a certificate says what counts.
"""

import contextlib
import hashlib
import os
import ssl
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from store.errors import ConfigError

CLUSTER_NAME_PREFIX: Final = "hyphae cluster "  # then the id in hex: the common name of a cluster's CA
_PEM_MAX: Final = 64 * 1024


class Credentials(msgspec.Struct, frozen=True):
    """A certificate, its key and the CA to believe, each as PEM text."""

    certificate: str
    private_key: str
    authority: str

    @classmethod
    def read(cls, certificate: Path, private_key: Path, authority: Path) -> "Credentials":
        """Raises ConfigError naming the file that cannot be used."""
        return cls(
            certificate=read_pem(certificate, "CERTIFICATE"),
            private_key=read_pem(private_key, "PRIVATE KEY"),
            authority=read_pem(authority, "CERTIFICATE"),
        )


def read_pem(path: Path, kind: str) -> str:
    """The text of a PEM file that holds a block of `kind`. Raises ConfigError."""
    try:
        text = path.read_bytes()[:_PEM_MAX].decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not PEM text"
        raise ConfigError(f"cannot read {path}: {reason}") from error
    if f"{kind}-----" not in text:
        raise ConfigError(f"{path} holds no {kind.lower()} in PEM form")
    return text


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For listening: whoever connects must show a certificate of the same CA. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.num_tickets = 0  # no resumption: every connection proves its certificate
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For connecting with a certificate. Raises ConfigError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, credentials)


def join_server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the joining conversation: the server proves itself, the joiner has nothing to show yet."""
    context = server_context(credentials)
    context.verify_mode = ssl.CERT_NONE
    return context


def join_client_context(authority: str) -> ssl.SSLContext:
    """For a joiner that has checked the CA's fingerprint."""
    context = _bare(ssl.PROTOCOL_TLS_CLIENT)
    _believe(context, authority)
    return context


def fingerprint(certificate: str) -> bytes:
    """SHA-256 of the certificate's DER form. Raises ConfigError."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.strip())).digest()
    except ValueError as error:
        raise ConfigError("this is no certificate in PEM form") from error


def cluster_of(authority: str) -> bytes:
    """The 16-byte id of the cluster a CA stands for: from its name, or from its fingerprint if another tool made it.

    Raises ConfigError. Done with the TLS library alone: X.509 code would cost a daemon 16 MiB.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _believe(context, authority)
    subjects = cast(list[dict[str, Any]], context.get_ca_certs())
    names = [part[0][1] for part in subjects[0]["subject"] if part[0][0] == "commonName"] if subjects else []
    name = str(names[0]) if names else ""
    if name.startswith(CLUSTER_NAME_PREFIX):
        with contextlib.suppress(ValueError):
            cluster = bytes.fromhex(name.removeprefix(CLUSTER_NAME_PREFIX))
            if len(cluster) == 16:
                return cluster
    return fingerprint(authority)[:16]


def _bare(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(side: int, credentials: Credentials) -> ssl.SSLContext:
    context = _bare(side)
    _believe(context, credentials.authority)
    # OpenSSL takes a certificate chain from a file only; an anonymous file in memory keeps keys off the disk.
    handle = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        text = f"{credentials.private_key}\n{credentials.certificate}\n"
        with os.fdopen(os.dup(handle), "w") as file:
            file.write(text)
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(f"certificate and key cannot be used together: {error.reason or error}") from error
    finally:
        os.close(handle)
    return context


def _believe(context: ssl.SSLContext, authority: str) -> None:
    try:
        context.load_verify_locations(cadata=authority)
    except ssl.SSLError as error:
        raise ConfigError(f"the CA certificate cannot be used: {error.reason or error}") from error


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise ConfigError("the private key is encrypted; give it without a password, readable by its owner only")
