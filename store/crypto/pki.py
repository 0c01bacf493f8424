"""The built-in certificate authority: ECDSA P-256, X.509 v3, one level, roles as URIs (identity.py).

X.509 code costs 16 MiB of memory, so only the master and the commands that join or issue import this module.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from store.crypto.identity import Role
from store.crypto.tls import CLUSTER_NAME_PREFIX, cluster_of
from store.errors import ConfigError

__all__ = ["Authority", "cluster_of", "create_authority", "create_key", "create_request", "issue", "load_authority"]

AUTHORITY_DAYS: Final = 30 * 365
CERTIFICATE_DAYS: Final = 10 * 365  # a machine in a cupboard must not drop out because nobody renewed it
_BACKDATED: Final = datetime.timedelta(days=1)  # home machines' clocks differ


class Authority(msgspec.Struct, frozen=True):
    """A CA: certificate and private key as PEM text."""

    certificate: str
    private_key: str


def create_authority(cluster: bytes, now: datetime.datetime) -> Authority:
    """A new CA whose name carries the cluster's 16-byte id."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CLUSTER_NAME_PREFIX + cluster.hex())])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), _key_pem(key))


def create_key() -> str:
    """A new private key as PEM."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def create_request(private_key: str) -> str:
    """A signing request that proves possession of the key and asks for nothing: the CA decides the name."""
    key = serialization.load_pem_private_key(private_key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hyphae")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def issue(
    authority: Authority, role: Role, request: str, now: datetime.datetime, days: int, hosts: Sequence[str] = ()
) -> str:
    """A certificate for the key in `request`, as PEM; `hosts` are names and addresses for programs that check them.

    Raises ConfigError if the request is not one or the CA's key cannot be used.
    """
    signer, issuer = load_authority(authority)
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        valid = asked.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise ConfigError("this is no certificate signing request in PEM form") from error
    if not valid:
        raise ConfigError("the certificate signing request is not signed by its own key")
    public = asked.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise ConfigError("keys must be ECDSA, Ed25519 or RSA")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (role.name or role.kind)[:64])])
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(role.uri), *map(_host_name, hosts)])
    certificate = (
        _builder(subject, issuer.subject, public, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(uses, critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate)


def load_authority(authority: Authority) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Raises ConfigError if key and certificate are not one CA's."""
    try:
        signer = serialization.load_pem_private_key(authority.private_key.encode(), None)
        certificate = x509.load_pem_x509_certificate(authority.certificate.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError("the CA's key or certificate is not in PEM form, or has a password") from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError("the CA's key is not an ECDSA key; make a CA with `store ca init`")
    if signer.public_key() != certificate.public_key():
        raise ConfigError("the CA's key does not belong to its certificate")
    return signer, certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
