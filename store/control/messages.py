"""What masters, daemons and clients say to each other over the control channel.

Every message is a msgpack map with the key `type` naming its class; unknown keys are ignored, so fields may be added
(with a default) without a new version. A *call* has one answer, named beside it; a *push* has none. Times are seconds.

| who asks the master | calls |
|---|---|
| joiner, without certificate | Join |
| daemon | RegisterDevice, Heartbeat; pushes Arbitrate |
| client | Hello first, then any other |
| master to daemon | pushes Decided, MapIs, SecretsAre |
| master to client | pushes MapIs |

Failures travel as Failure(status, message) and are raised as StoreError on the asking side.
"""

from enum import IntEnum

import msgspec

from store.addresses import Address
from store.control.arbiter import ConfigIs, FromMaster, Register, Registered, ToMaster
from store.crypto.keys import Secrets
from store.crypto.ticket import Cap
from store.ids import DeviceId
from store.placement.storage_map import StorageMap


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer of calls that tell nothing more."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    status: int  # store.errors.Status
    message: str  # one line that a person can act on


# --- joining ---------------------------------------------------------------------------------------------------------


class Join(msgspec.Struct, frozen=True, tag=True):
    """A machine without a certificate asks for one, with the secret of a join ticket. Answer: Joined."""

    secret: bytes
    request: str  # PEM certificate signing request; its subject is ignored, the ticket decides who it becomes


class Joined(msgspec.Struct, frozen=True, tag=True):
    cluster: bytes
    role: str  # urn:hyphae:..., as in the certificate
    certificate: str  # PEM
    authority: str  # PEM
    masters: tuple[Address, ...]


# --- daemons ---------------------------------------------------------------------------------------------------------


class RegisterDevice(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """First call of every connection of a daemon. Answer: DeviceRegistered.

    Refused with CONFLICT while another process serves this device, and with DENIED if the disk is of another cluster
    or the certificate names another device.
    """

    device: DeviceId
    cluster: bytes  # of the disk; empty: the disk is new
    incarnation: int  # of this start
    claim: Register | None  # to be judged at once; claims may come in an Arbitrate too
    address: Address  # UDP, for clients
    peer: Address  # TCP, for daemons
    host: str
    zone: str
    capacity: int  # bytes
    used: int


class DeviceRegistered(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    cluster: bytes
    name: str  # what people call the device
    answer: Registered | None  # to the claim
    generation: int  # recovery generation of the master
    secrets: Secrets
    configs: tuple[ConfigIs, ...]  # of every group that has the device as a member or in sync
    map: StorageMap


class PoolUsage(msgspec.Struct, frozen=True, array_like=True):
    pool: int
    objects: int
    bytes: int


class Heartbeat(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Every HEARTBEAT_S. Answer: HeartbeatOk."""

    used: int  # bytes of the device
    free: int
    pools: tuple[PoolUsage, ...] = ()  # what this device holds of each pool


class HeartbeatOk(msgspec.Struct, frozen=True, tag=True):
    map_order: tuple[int, int]
    key_epoch: int


class Arbitrate(msgspec.Struct, frozen=True, tag=True):
    """Push: a batch of proposals and questions about configurations; each is answered in a Decided, some day."""

    messages: tuple[ToMaster, ...]


class Decided(msgspec.Struct, frozen=True, tag=True):
    """Push: what the arbiter has to say to this device, in order. All of it is durable at the master."""

    messages: tuple[FromMaster, ...]


class MapIs(msgspec.Struct, frozen=True, tag=True):
    """Push, and the answer of GetMap. Ignore a map whose order is not higher than the one held."""

    map: StorageMap


class SecretsAre(msgspec.Struct, frozen=True, tag=True):
    """Push: this device's secrets after a rotation."""

    secrets: Secrets


# --- clients: session ------------------------------------------------------------------------------------------------


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


# --- clients: pools --------------------------------------------------------------------------------------------------


class PoolCreate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: PoolIs. BUSY if fewer than `devices` (or `replicas`) are up, after waiting `wait` seconds for them."""

    name: str
    replicas: int
    groups: int
    min_write: int = 1
    wait: float = 0.0
    devices: int = 0


class PoolList(msgspec.Struct, frozen=True, tag=True):
    """Answer: PoolsAre."""


class PoolRemove(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: Done. EXISTS if it holds images or objects and `force` is not set; CONFLICT while an image is open."""

    name: str
    force: bool = False


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    name: str
    replicas: int
    groups: int
    min_write: int
    images: int
    objects: int  # as the devices last told, divided by the number of copies
    bytes: int
    complete: int  # groups whose in-sync set has all members
    degraded: int  # fewer in sync than members
    unwritable: int  # fewer in sync than min_write


class PoolIs(msgspec.Struct, frozen=True, tag=True):
    pool: PoolStatus


class PoolsAre(msgspec.Struct, frozen=True, tag=True):
    pools: tuple[PoolStatus, ...]


# --- clients: images -------------------------------------------------------------------------------------------------


class Mode(IntEnum):
    READ = 0  # always granted; no lock
    WRITE = 1  # refused with BUSY while another holds the lock, naming the holder
    TAKE = 2  # as WRITE, but breaks a living lock; the old holder is fenced


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    id: int  # 64 bits, not 0, random: the lock scope of requests
    pool: str
    pool_number: int
    size: int  # bytes
    object_size: int
    prefix: bytes  # block objects are named prefix + decimal index
    created: int  # unix seconds
    generation: int  # of the lock last granted; 0: never opened for writing
    holder: str = ""  # who holds the lock; empty: nobody
    expires_in: float = 0.0  # seconds until the holder's lease ends


class ImageCreate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: ImageIs. EXISTS if the pool has one of that name."""

    pool: str
    name: str
    size: int


class ImageList(msgspec.Struct, frozen=True, tag=True):
    """Answer: ImagesAre. Empty pool: all pools."""

    pool: str = ""


class ImageStat(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: ImageIs."""

    pool: str
    name: str


class ImageResize(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: ImageIs. Only the registry changes. Shrinking needs `generation`: that of a lock held now; the holder
    deletes what lies beyond the new end."""

    pool: str
    name: str
    size: int
    generation: int = 0


class ImageRemove(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: Done. Only the entry goes: open it first (TAKE), delete its objects, then give that lock's generation.
    BUSY if somebody else holds it."""

    pool: str
    name: str
    generation: int = 0


class ImageOpen(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: ImageOpened."""

    pool: str
    name: str
    mode: Mode
    holder: str = ""  # shown to those who are refused, for example "nbd on homeserver, process 1234"


class ImageOpened(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    image: ImageInfo
    generation: int  # 0 for readers
    lease: float  # seconds from now


class ImageRenew(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: ImageRenewed; every third of the lease. FENCED if a newer lock was granted: write no more."""

    id: int
    generation: int


class ImageRenewed(msgspec.Struct, frozen=True, tag=True):
    lease: float
    size: int  # it may have been resized


class ImageClose(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Answer: Done, also when the lock was lost meanwhile."""

    id: int
    generation: int


class ImageIs(msgspec.Struct, frozen=True, tag=True):
    image: ImageInfo


class ImagesAre(msgspec.Struct, frozen=True, tag=True):
    images: tuple[ImageInfo, ...]


# --- clients: cluster ------------------------------------------------------------------------------------------------


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


DaemonMessage = RegisterDevice | Heartbeat | Arbitrate
PoolMessage = PoolCreate | PoolList | PoolRemove
ImageMessage = (
    ImageCreate | ImageList | ImageStat | ImageResize | ImageRemove | ImageOpen | ImageRenew | ImageClose
)
ClusterMessage = (
    DeviceList | GetStatus | ClientCreate | ClientList | ClientRevoke | JoinTicketCreate | CaIssue | KeyRotate
    | AuditTail | GroupsOf
)  # fmt: skip
ClientMessage = Hello | GetMap | GetTicket | GetKeys | PoolMessage | ImageMessage | ClusterMessage
AnswerMessage = (
    Done | Failure | Joined | DeviceRegistered | HeartbeatOk | Welcome | MapIs | TicketIs | PoolIs | PoolsAre | ImageIs
    | ImagesAre | ImageOpened | ImageRenewed | DevicesAre | StatusIs | ClientIs | ClientsAre | JoinTicketIs
    | CertificateIs | KeyEpochIs | AuditIs | ConfigsAre
)  # fmt: skip
PushMessage = Decided | SecretsAre
Message = Join | DaemonMessage | ClientMessage | AnswerMessage | PushMessage
