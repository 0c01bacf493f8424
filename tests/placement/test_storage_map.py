"""The storage map: what is packed comes back, byte for byte as PLACEMENT.md says."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from store.ids import DeviceId, Who, group_id
from store.placement.config import GroupConfig
from store.placement.storage_map import NOBODY, Device, Pool, StorageMap, pack_rows, row_size

IDS = [DeviceId(bytes([number]) * 16) for number in range(1, 8)]
DEVICES = tuple(
    Device(device, f"d{place}", f"h{place}", "z", ("10.0.0.1", 4000 + place), ("10.0.0.1", 5000 + place), 1 << 40)
    for place, device in enumerate(IDS)
)
PLACES = {device: place for place, device in enumerate(IDS)}


def storage_map(pools: tuple[Pool, ...]) -> StorageMap:
    return StorageMap(1, b"c" * 16, 1, 7, 2, 9, DEVICES, pools)


def test_a_row_byte_by_byte() -> None:
    config = GroupConfig(1, 0x0203, (IDS[4], IDS[0], IDS[2]), Who(IDS[2], 5), (Who(IDS[2], 5), Who(IDS[4], 6)), 1)
    assert pack_rows([config], PLACES, 3).hex() == "010000000302000002000500040000000200"
    assert row_size(3) == 18


def test_the_map_travels() -> None:
    pool = Pool(3, "main", 1, 1, 1, pack_rows([GroupConfig(1, 1, (IDS[0],), Who(IDS[0], 1), (), 1)], PLACES, 1))
    drawn = storage_map((pool,))
    encoded = msgspec.msgpack.encode(drawn)
    assert msgspec.msgpack.decode(encoded, type=StorageMap) == drawn
    assert msgspec.msgpack.decode(encoded)[:6] == [1, b"c" * 16, 1, 7, 2, 9]


members = st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True)


@st.composite
def configs(draw: st.DrawFn) -> GroupConfig:
    chosen = draw(members)
    in_sync = tuple(Who(device, 1) for device in draw(members))
    primary = draw(st.sampled_from([*IDS, DeviceId(b"?" * 16)]))
    generation, epoch = draw(st.integers(0, 9)), draw(st.integers(0, 2**32 - 1))
    return GroupConfig(generation, epoch, tuple(chosen), Who(primary, 1), in_sync, 1)


@given(st.lists(configs(), min_size=1, max_size=20))
def test_routes_are_the_configurations(rows: list[GroupConfig]) -> None:
    drawn = storage_map((Pool(3, "main", 4, len(rows), 1, pack_rows(rows, PLACES, 4)),))
    for index, config in enumerate(rows):
        route = drawn.route(group_id(3, index))
        assert route is not None
        assert route.order_token == config.order_token
        assert [device.id for device in route.members] == list(config.members)
        assert [device.id for device in route.in_sync] == [m for m in config.members if m in config.devices()]
        known = config.primary.device if config.primary.device in PLACES else None
        assert (route.primary.id if route.primary else None) == known
    assert drawn.route(group_id(3, len(rows))) is None
    assert drawn.route(group_id(4, 0)) is None


def test_lookups() -> None:
    pool = Pool(3, "main", 1, 128, 1, bytes(128 * row_size(1)))
    drawn = storage_map((pool,))
    assert drawn.pool("main") is pool and drawn.pool("other") is None and drawn.pool_numbered(3) is pool
    assert drawn.device(IDS[1]) == DEVICES[1] and drawn.device(DeviceId(b"?" * 16)) is None
    assert pool.group_of(b"image.1") >> 16 == 3 and pool.group_of(b"image.1") & 0xFFFF < 128
    assert len(DEVICES) < NOBODY
