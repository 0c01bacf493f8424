"""What clients ask a master about pools and images. See CONTROL.md."""

from enum import IntEnum

import msgspec


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
