"""What clients ask a master about themselves and the cluster. See CONTROL.md."""

import msgspec

from store.addresses import Address
from store.control.arbiter import ConfigIs
from store.control.image_messages import PoolStatus
from store.crypto.ticket import Cap
from store.ids import DeviceId
from store.placement.storage_map import StorageMap


class Hello(msgspec.Struct, frozen=True, tag=True):
    """First call of every connection of a client; from then on maps are pushed. Answer: Welcome."""

    program: str = ""  # for the audit and for `store status`


class Welcome(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    cluster: bytes
    client: str  # the name in the certificate
    caps: tuple[Cap, ...]
    generation: int
    map: StorageMap


class GetMap(msgspec.Struct, frozen=True, tag=True):
    """Answer: MapIs."""


class GetTicket(msgspec.Struct, frozen=True, tag=True):
    """Answer: TicketIs. `renew` is the serial to keep; 0 asks for a new one (first use, or after NO_SESSION)."""

    renew: int = 0


class GetKeys(msgspec.Struct, frozen=True, tag=True):
    """The keys of a ticket issued before, for devices that came later. Answer: TicketIs with the same ticket."""

    ticket: bytes


class TicketIs(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    ticket: bytes
    keys: dict[DeviceId, bytes]  # the ticket's key at each device
    serial: int
    key_epoch: int
    not_after: int  # unix seconds
    renew_in: float  # seconds from now after which to ask again


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    id: DeviceId
    name: str
    host: str
    zone: str
    address: Address
    peer: Address
    capacity: int
    used: int
    state: str  # up, suspect (silent for 10 s), down (for 30 s), draining, lost
    silent_for: float  # seconds since its last heartbeat
    groups: int  # it is a member of
    in_sync: int  # of those
    primaries: int  # groups it orders writes of


class DeviceList(msgspec.Struct, frozen=True, tag=True):
    """Answer: DevicesAre."""


class DevicesAre(msgspec.Struct, frozen=True, tag=True):
    devices: tuple[DeviceStatus, ...]


class GetStatus(msgspec.Struct, frozen=True, tag=True):
    """Answer: StatusIs."""


class StatusIs(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    cluster: bytes
    generation: int
    map_epoch: int
    key_epoch: int
    recovering: bool  # a restored master still waits for the members' configurations
    awaited: tuple[str, ...]  # names of the devices it waits for
    devices: tuple[DeviceStatus, ...]
    pools: tuple[PoolStatus, ...]
    images: int
    clients: int  # connected now
    uptime: float


class ClientCreate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: ClientIs. An existing client keeps its name and gets the new capabilities and another certificate."""

    name: str
    caps: tuple[Cap, ...]


class ClientIs(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    name: str
    cluster: bytes
    masters: tuple[Address, ...]
    authority: str  # PEM
    certificate: str
    private_key: str


class ClientList(msgspec.Struct, frozen=True, tag=True):
    """Answer: ClientsAre."""


class ClientEntry(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    caps: tuple[Cap, ...]
    connected: int
    revoked: bool


class ClientsAre(msgspec.Struct, frozen=True, tag=True):
    clients: tuple[ClientEntry, ...]


class ClientRevoke(msgspec.Struct, frozen=True, tag=True):
    """Answer: Done. No further ticket; KeyRotate twice also ends the tickets it has."""

    name: str


class JoinTicketCreate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: JoinTicketIs."""

    role: str  # "daemon" or "client"
    name: str = ""  # of the client
    caps: tuple[Cap, ...] = ()  # of the client
    lifetime: float = 3600.0


class JoinTicketIs(msgspec.Struct, frozen=True, tag=True):
    ticket: str  # one printable word for `store join`
    not_after: int


class CaIssue(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: CertificateIs."""

    role: str  # "daemon", "client" or "master"
    name: str = ""
    request: str = ""  # PEM; empty: the master makes the key as well
    days: int = 825


class CertificateIs(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    authority: str  # PEM
    certificate: str
    private_key: str  # empty if a request was given


class KeyRotate(msgspec.Struct, frozen=True, tag=True):
    """Answer: KeyEpochIs. Tickets of the epoch before the one that ends now are refused from now on."""


class KeyEpochIs(msgspec.Struct, frozen=True, tag=True):
    key_epoch: int


class AuditTail(msgspec.Struct, frozen=True, tag=True):
    """Answer: AuditIs, newest last."""

    limit: int = 100


class AuditEntry(msgspec.Struct, frozen=True, array_like=True):
    number: int
    time: int  # unix seconds
    who: str
    what: str  # for example "pool create"
    subject: str


class AuditIs(msgspec.Struct, frozen=True, tag=True):
    entries: tuple[AuditEntry, ...]


class GroupsOf(msgspec.Struct, frozen=True, tag=True):
    """Configurations of a pool's groups as the master has them. Answer: ConfigsAre."""

    pool: str


class ConfigsAre(msgspec.Struct, frozen=True, tag=True):
    configs: tuple[ConfigIs, ...]
