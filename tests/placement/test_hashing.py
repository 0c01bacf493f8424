"""The hash of PLACEMENT.md: vectors, and how evenly names of block devices spread."""

import math
from collections import Counter

import mmh3
import pytest

from store.limits import GROUPS_DEFAULT
from store.placement.hashing import group_index

NAMES = 100_000

VECTORS = [
    (1, b"", "b55cff6ee5ab10468335f878aa2d6251", 53, 181),
    (1, b"image.0", "5b4a685c149371e10a91e0f2b097b03c", 91, 603),
    (1, b"image.1", "17e2675f9ef77da67a11d00b786f63e4", 23, 535),
    (2, b"image.1", "c0a81421620b87e14373ce56226e2b48", 64, 192),
    (7, b"testblock", "4dd70ba69ed5fafd8d721eba1e9f5291", 77, 845),
    (65535, bytes(range(256)) * 4, "0d285baa1dcf678779f6512b012f05b9", 13, 13),
]


@pytest.mark.parametrize(("pool", "name", "digest", "of_128", "of_1024"), VECTORS)
def test_vectors(pool: int, name: bytes, digest: str, of_128: int, of_1024: int) -> None:
    assert mmh3.mmh3_x64_128_digest(name, pool).hex() == digest
    assert group_index(pool, name, 128) == int.from_bytes(bytes.fromhex(digest), "little") % 128 == of_128
    assert group_index(pool, name, 1024) == of_1024


def spread(pool: int, pattern: bytes, groups: int) -> Counter[int]:
    return Counter(group_index(pool, pattern % number, groups) for number in range(NAMES))


@pytest.mark.parametrize("pattern", [b"image.%d", b"vm1_%d", b"testblock_%d", b"disk.0123456789abcdef.%d", b"%020d"])
def test_block_names_spread_evenly(pattern: bytes) -> None:
    for pool in (1, 2):
        assert max(spread(pool, pattern, GROUPS_DEFAULT).values()) < 1.3 * NAMES / GROUPS_DEFAULT


@pytest.mark.parametrize("groups", [128, 1024, 1000])
def test_as_even_as_chance_allows(groups: int) -> None:
    """Chi-square against the uniform law within 5 standard deviations; no group is beyond what such tails allow."""
    mean = NAMES / groups
    for pool in range(1, 5):
        counts = spread(pool, b"image.%d", groups)
        chi_square = sum((counts[group] - mean) ** 2 for group in range(groups)) / mean
        assert abs(chi_square - (groups - 1)) < 5 * math.sqrt(2 * (groups - 1))
        assert max(counts.values()) < mean + 5.5 * math.sqrt(mean)


def test_pools_are_independent() -> None:
    """Names that share a group in one pool are scattered in another."""
    together = [b"image.%d" % number for number in range(NAMES) if group_index(1, b"image.%d" % number, 128) == 5]
    elsewhere = Counter(group_index(2, name, 128) for name in together)
    assert len(elsewhere) == 128 and max(elsewhere.values()) < 30
