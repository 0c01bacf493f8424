"""The id file: whose disk a directory is. Text for people, a checksum for the machine. FORMAT.md, section Identity."""

from typing import Final, NamedTuple

import xxhash

from store.errors import ConfigError
from store.ids import DeviceId

NAME: Final = "device"
FORMAT: Final = "hyphae-disk-1"
FIELDS: Final = ("format", "cluster", "device", "journal", "journal_size", "capacity")


class Identity(NamedTuple):
    cluster: bytes  # 16 bytes
    device: DeviceId
    journal: bytes  # 16 random bytes: names this journal and seeds its checksums
    journal_size: int  # bytes
    capacity: int  # bytes of object data; 0 = whatever the file system gives


def encode(identity: Identity) -> bytes:
    values = (
        FORMAT, identity.cluster.hex(), identity.device.hex(), identity.journal.hex(),
        str(identity.journal_size), str(identity.capacity),
    )  # fmt: skip
    text = "".join(f"{name} {value}\n" for name, value in zip(FIELDS, values, strict=True))
    return f"{text}check {xxhash.xxh3_64_hexdigest(text.encode())}\n".encode()


def decode(content: bytes, place: str) -> Identity:
    """Raises ConfigError, naming `place`, for anything but an intact id file of a known format."""
    try:
        text = content.decode()
        body, _, check = text.rpartition("check ")
        rows = dict(line.split(" ", 1) for line in body.splitlines())
        if rows.get("format", FORMAT) != FORMAT:
            raise ConfigError(f"{place}: disk format {rows['format']} is newer than this program; update it")
        if check.strip() != xxhash.xxh3_64_hexdigest(body.encode()):
            raise ValueError("checksum")
        return Identity(
            bytes.fromhex(rows["cluster"]),
            DeviceId(bytes.fromhex(rows["device"])),
            bytes.fromhex(rows["journal"]),
            int(rows["journal_size"]),
            int(rows["capacity"]),
        )
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{place}: the id file '{NAME}' is damaged; restore it or start with an empty directory"
        ) from error
