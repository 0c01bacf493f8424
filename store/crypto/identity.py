"""Who a certificate speaks for: a URI in its subject alternative names.

urn:hyphae:master              the master
urn:hyphae:daemon              a storage daemon, of whatever device its disk says
urn:hyphae:device:<32 hex>     the storage daemon of exactly this device
urn:hyphae:client:<name>       a client
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from store.errors import ConfigError
from store.ids import DeviceId

_PREFIX: Final = "urn:hyphae:"
_CLIENT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")


class Role(NamedTuple):
    kind: str  # master, daemon, device or client
    name: str = ""

    @property
    def uri(self) -> str:
        return f"{_PREFIX}{self.kind}:{self.name}" if self.name else f"{_PREFIX}{self.kind}"

    @property
    def is_daemon(self) -> bool:
        return self.kind in ("daemon", "device")

    def may_serve(self, device: DeviceId) -> bool:
        """Whether a daemon with this certificate may speak for the device."""
        return self.kind == "daemon" or (self.kind == "device" and self.name == device.hex())


MASTER: Final = Role("master")
DAEMON: Final = Role("daemon")


def device_role(device: DeviceId) -> Role:
    return Role("device", device.hex())


def client_role(name: str) -> Role:
    """Raises ConfigError for a name that cannot stand in a certificate."""
    if not _CLIENT_NAME.fullmatch(name):
        raise ConfigError(f"no client name: '{name}'; at most 63 letters, digits and . _ @ -, letter or digit first")
    return Role("client", name)


def parse_role(uri: str) -> Role | None:
    """None: not one of ours."""
    kind, _, name = uri.removeprefix(_PREFIX).partition(":")
    if not uri.startswith(_PREFIX):
        return None
    if kind in ("master", "daemon"):
        return None if name else Role(kind)
    if kind == "device":
        return Role(kind, name) if re.fullmatch(r"[0-9a-f]{32}", name) else None
    return Role(kind, name) if kind == "client" and _CLIENT_NAME.fullmatch(name) else None


def role_of(certificate: Mapping[str, Any]) -> Role | None:
    """The role in what `SSLObject.getpeercert()` returns; None if it names none of ours."""
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI" and (role := parse_role(value)) is not None:
            return role
    return None


def device_of(certificate: Mapping[str, Any]) -> DeviceId | None:
    """The device a daemon's certificate is bound to; None if it may serve any."""
    role = role_of(certificate)
    return DeviceId(bytes.fromhex(role.name)) if role is not None and role.kind == "device" else None
