"""The kept data of an image against the plainest model: a byte string and, per byte, what is kept."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from store.client.kept import MIXED, KeptBlocks, _cuts, _ones
from store.ids import GroupId
from store.limits import BLOCK

BLOCKS = 6
SIZE = BLOCKS * BLOCK
GROUP = GroupId(1 << 16)

ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3 * BLOCK)).map(
    lambda pair: (pair[0], min(pair[1], SIZE - pair[0]))
)
aligned = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 3)).map(
    lambda pair: (pair[0] * BLOCK, min(pair[1], BLOCKS - pair[0]) * BLOCK)
)
steps = st.lists(
    st.tuples(st.sampled_from(("unstable", "durable", "clear")), ranges | aligned, st.integers(1, 3)), max_size=25
)


def overlaid(kept: KeptBlocks, below: bytearray) -> bytes:
    """What a read of everything returns: the daemons' bytes with the kept ones over them."""
    out = bytearray(below)
    for patch in kept.patches(0, SIZE):
        out[patch.position : patch.position + len(patch.data)] = patch.data
    return bytes(out)


@given(steps)
@settings(max_examples=150, deadline=None)
def test_a_read_shows_every_write(writes: list[tuple[str, tuple[int, int], int]]) -> None:
    """`truth` is what a plain disk holds; `stored` what the daemons would hold had they lost every unstable write."""
    kept, truth, stored = KeptBlocks(), bytearray(SIZE), bytearray(SIZE)
    for stamp, (kind, (offset, length), verifier) in enumerate(writes, 1):
        data = bytes([stamp % 251 + 1]) * length
        if kind == "clear":
            data = bytes(length)
        truth[offset : offset + length] = data
        if kind == "unstable":
            kept.put(offset, data, GROUP, verifier, stamp)
        else:
            stored[offset : offset + length] = data
            kept.replaced(offset, None if kind == "clear" else data, length, GROUP, stamp)
        assert overlaid(kept, stored) == bytes(truth)
        alive = set(kept.newest.values())
        assert alive == set(kept.by_group.get(GROUP, {}))
        assert kept.bytes == sum(len(one.data) for one in alive)
        for one in alive:
            assert one.blocks == sum(1 for newest in kept.newest.values() if newest is one) > 0


@given(steps)
@settings(max_examples=100, deadline=None)
def test_sending_the_runs_again_restores_everything(writes: list[tuple[str, tuple[int, int], int]]) -> None:
    kept, truth, stored = KeptBlocks(), bytearray(SIZE), bytearray(SIZE)
    for stamp, (kind, (offset, length), verifier) in enumerate(writes, 1):
        data = bytes(length) if kind == "clear" else bytes([stamp % 251 + 1]) * length
        truth[offset : offset + length] = data
        if kind == "unstable":
            kept.put(offset, data, GROUP, verifier, stamp)
        else:
            stored[offset : offset + length] = data
            kept.replaced(offset, None if kind == "clear" else data, length, GROUP, stamp)
    for one in list(kept.by_group.get(GROUP, {})):
        for offset, run in kept.runs(one):
            stored[offset : offset + len(run)] = run
        kept.forget(one)
    assert bytes(stored) == bytes(truth)
    assert kept.bytes == 0 and not kept.newest and not kept.by_group


def test_parts_of_one_block_with_different_verifiers_are_never_confirmed() -> None:
    kept = KeptBlocks()
    kept.put(0, b"a" * 100, GROUP, 1, 1)
    kept.put(50, b"b" * 100, GROUP, 2, 2)
    assert [one.verifier for one in kept.by_group[GROUP]] == [MIXED]
    assert overlaid(kept, bytearray(SIZE))[:150] == b"a" * 50 + b"b" * 100


@given(st.integers(0, 3 * BLOCK), st.integers(1, 3 * BLOCK))
def test_cuts_cover_a_range_and_split_it_at_blocks(start: int, length: int) -> None:
    cuts = list(_cuts(start, start + length))
    assert cuts[0][0] == start and cuts[-1][1] == start + length
    assert all(left[1] == right[0] for left, right in pairwise(cuts))
    for low, high in cuts:
        whole = low % BLOCK == 0 and high % BLOCK == 0
        assert low < high and (whole or low // BLOCK == (high - 1) // BLOCK)


@given(st.integers(0, (1 << 200) - 1))
def test_ones_are_the_runs_of_set_bits(mask: int) -> None:
    again = 0
    for low, high in _ones(mask):
        assert low < high
        again |= (1 << high) - (1 << low)
    assert again == mask
