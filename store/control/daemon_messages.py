"""Joining, and what masters and daemons say to each other. See CONTROL.md."""

import msgspec

from store.addresses import Address
from store.control.arbiter import ConfigIs, FromMaster, Register, Registered, ToMaster
from store.crypto.keys import Secrets
from store.ids import DeviceId
from store.placement.storage_map import StorageMap


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer of calls that tell nothing more."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    status: int  # store.errors.Status
    message: str  # one line that a person can act on


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
