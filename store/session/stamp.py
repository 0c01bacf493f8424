"""Address stamps: a client proves that it receives what is sent to its address, and the daemon remembers nothing.

A session is not bound to an address, so a captured request sent on from another address would aim its answer there.
A stamp is a MAC over session, address and a ten-minute epoch of the wall clock, under the secret of the session's
ticket: it is valid for its own epoch and the next, on this device only, across restarts of the daemon.
"""

from hashlib import blake2b
from struct import Struct
from typing import Any, Final

from store.limits import STAMP_EPOCH_S

_FIELDS: Final = Struct("<QQ")


def stamp_epoch(wall: float) -> int:
    """The epoch of a wall-clock time in seconds."""
    return int(wall) // STAMP_EPOCH_S


def make_stamp(secret: bytes, session: int, address: Any, epoch: int) -> int:
    """The 64-bit stamp, never 0 (which means none)."""
    digest = blake2b(_FIELDS.pack(session, epoch), digest_size=8, key=secret, person=b"hyphae stamp")
    digest.update(f"{address[0]} {address[1]}".encode())
    return int.from_bytes(digest.digest(), "little") or 1


def stamp_is_right(stamp: int, secret: bytes, session: int, address: Any, epoch: int) -> bool:
    """Whether `stamp` was made for this session and address in this epoch or the one before."""
    return stamp in (make_stamp(secret, session, address, epoch), make_stamp(secret, session, address, epoch - 1))
