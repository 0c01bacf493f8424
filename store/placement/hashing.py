"""Which group of its pool an object belongs to. See PLACEMENT.md."""

import mmh3


def group_index(pool: int, name: bytes, groups: int) -> int:
    """MurmurHash3 x64 128 of the name, seeded with the pool's number, modulo the pool's number of groups."""
    return mmh3.hash128(name, pool, True) % groups
