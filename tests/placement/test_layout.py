"""The master's layout: exact shares, separate domains, few moves."""

import time
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.core.layout import Candidate, Table, TooFewDevices, arrange, find_domains, moves, targets
from store.ids import DeviceId


def device(number: int, weight: int, host: str = "", zone: str = "") -> Candidate:
    return Candidate(DeviceId(bytes([number]) * 16), host or f"h{number}", zone or host or f"h{number}", weight)


def held(table: Table) -> Counter[DeviceId]:
    return Counter(member for members in table for member in members)


def led(table: Table) -> Counter[DeviceId]:
    return Counter(members[0] for members in table)


class Flow:
    """Minimum-cost flow by successive shortest paths: slow, short, and the truth that the layout is compared with."""

    def __init__(self) -> None:
        self.edges: list[list[int]] = []  # to, room, cost; the reverse of edge e is e ^ 1
        self.out: dict[object, list[int]] = {}
        self.nodes: list[object] = []
        self.number: dict[object, int] = {}

    def node(self, name: object) -> int:
        if name not in self.number:
            self.number[name] = len(self.nodes)
            self.nodes.append(name)
            self.out[self.number[name]] = []
        return self.number[name]

    def edge(self, source: object, target: object, room: int, cost: int = 0) -> None:
        for here, there, amount, price in ((source, target, room, cost), (target, source, 0, -cost)):
            self.out[self.node(here)].append(len(self.edges))
            self.edges.append([self.node(there), amount, price])

    def cheapest(self, source: object, sink: object) -> tuple[int, int]:
        """(flow, cost)."""
        flow = cost = 0
        start, end = self.node(source), self.node(sink)
        while True:
            far, via = {start: 0}, {}
            queue = deque([start])
            while queue:
                here = queue.popleft()
                for number in self.out[here]:
                    there, room, price = self.edges[number]
                    if room and far[here] + price < far.get(there, 1 << 30):
                        far[there], via[there] = far[here] + price, number
                        queue.append(there)
            if end not in far:
                return flow, cost
            flow, cost, here = flow + 1, cost + far[end], end
            while here != start:
                self.edges[via[here]][1] -= 1
                self.edges[via[here] ^ 1][1] += 1
                here = self.edges[via[here] ^ 1][0]


def least_moves(before: Table, after: list[Candidate], replicas: int) -> int:
    """The fewest moves by which any table for these devices can be reached."""
    devices = sorted(after)
    domains = find_domains(devices, replicas)
    flow = Flow()
    for place, wanted in enumerate(targets(devices, domains, replicas, len(before))):
        flow.edge("source", place, wanted)
    for group, members in enumerate(before):
        for place, each in enumerate(devices):
            flow.edge(place, (group, "host", domains.host[place]), 1, 0 if each.id in members else 1)
        for host in set(domains.host):
            zone = domains.zone[domains.host.index(host)]
            flow.edge((group, "host", host), (group, "zone", zone), domains.per_host)
        for zone in set(domains.zone):
            flow.edge((group, "zone", zone), (group, "all"), domains.per_zone)
        flow.edge((group, "all"), "sink", replicas)
    amount, cost = flow.cheapest("source", "sink")
    assert amount == replicas * len(before)  # the targets can be met exactly
    return cost


def bound(before: Table, after: list[Candidate], replicas: int) -> float:
    """Within 10 % of the least; of so few groups, one or two for rounding."""
    return 1.1 * least_moves(before, after, replicas) + 2


def test_refuses_fewer_devices_than_copies() -> None:
    with pytest.raises(TooFewDevices, match="needs 3 devices, 1 is registered"):
        arrange([device(1, 5)], 3, 16, 1)


def test_weights_are_met() -> None:
    devices = [device(1, 1), device(2, 3), device(3, 4), device(4, 2)]
    groups = 100_000
    share = held(arrange(devices, 1, groups, 1))
    for each in devices:
        assert abs(share[each.id] - groups * each.weight / 10) <= 0.01 * groups * each.weight / 10
    # Two copies: 4 of 10 is below one copy of every group, so all shares can still be exact.
    share = held(arrange(devices, 2, groups, 1))
    assert all(share[each.id] == 2 * groups * each.weight // 10 for each in devices)


def test_a_device_too_large_for_its_share_holds_every_group_once() -> None:
    table = arrange([device(1, 100), device(2, 1), device(3, 1)], 2, 128, 1)
    assert held(table) == {bytes([1]) * 16: 128, bytes([2]) * 16: 64, bytes([3]) * 16: 64}


clusters = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5), st.integers(0, 3)), min_size=3, max_size=12).map(
    lambda rows: [device(n + 1, w, f"z{z}h{h}", f"z{z}") for n, (w, h, z) in enumerate(rows)]
)


@settings(max_examples=60, deadline=None)
@given(clusters, st.integers(1, 3), st.sampled_from([16, 100, 128]), st.integers(1, 99))
def test_domains_targets_and_primaries(devices: list[Candidate], replicas: int, groups: int, salt: int) -> None:
    table = arrange(devices, replicas, groups, salt)
    ordered = sorted(devices)
    domains = find_domains(ordered, replicas)
    host = {each.id: domains.host[place] for place, each in enumerate(ordered)}
    zone = {each.id: domains.zone[place] for place, each in enumerate(ordered)}
    for members in table:
        assert len(set(members)) == replicas
        assert max(Counter(host[m] for m in members).values()) <= domains.per_host
        assert max(Counter(zone[m] for m in members).values()) <= domains.per_zone
    if len(set(host.values())) >= replicas:
        assert domains.per_host == 1
    if len(set(zone.values())) >= replicas:
        assert domains.per_zone == 1
    wanted = targets(ordered, domains, replicas, groups)
    share, first = held(table), led(table)
    assert [share[each.id] for each in ordered] == wanted
    assert all(abs(first[each.id] - share[each.id] / replicas) <= 1 for each in ordered)


@settings(max_examples=25, deadline=None)
@given(clusters, st.integers(1, 3), st.integers(1, 40), st.integers(0, 4), st.integers(1, 99))
def test_few_moves_when_a_device_comes(
    devices: list[Candidate], replicas: int, weight: int, zone: int, salt: int
) -> None:
    before = arrange(devices, replicas, 24, salt)
    grown = [*devices, device(99, weight, f"z{zone}new", f"z{zone}")]
    after = arrange(grown, replicas, 24, salt, before)
    assert moves(before, after) <= bound(before, grown, replicas)


@settings(max_examples=25, deadline=None)
@given(clusters.filter(lambda rows: len(rows) > 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 99))
def test_few_moves_when_a_device_goes(devices: list[Candidate], replicas: int, gone: int, salt: int) -> None:
    before = arrange(devices, replicas, 24, salt)
    left = [each for place, each in enumerate(devices) if place != gone]
    after = arrange(left, replicas, 24, salt, before)
    assert moves(before, after) <= bound(before, left, replicas)


def test_typical_growth_of_a_home_cluster() -> None:
    devices = [device(n, 10 + n, f"h{n // 2}", f"z{n // 4}") for n in range(20)]
    table = arrange(devices, 3, 1024, 1)
    for extra in (device(50, 20, "new", "z0"), device(51, 200, "new", "elsewhere"), device(52, 1, "h3", "z1")):
        grown = arrange([*devices, extra], 3, 1024, 1, table)
        assert moves(table, grown) <= 1.1 * (wanted([*devices, extra]) - held(table)).total()


def wanted(devices: list[Candidate]) -> Counter[DeviceId]:
    ordered = sorted(devices)
    counts = targets(ordered, find_domains(ordered, 3), 3, 1024)
    return Counter(dict(zip((each.id for each in ordered), counts, strict=True)))


def test_nothing_moves_without_a_reason() -> None:
    devices = [device(n, 10 + n, f"h{n // 2}", f"z{n // 4}") for n in range(1, 13)]
    table = arrange(devices, 3, 256, 4)
    assert arrange(list(reversed(devices)), 3, 256, 4, table) == table
    assert arrange(list(reversed(devices)), 3, 256, 4) == table
    assert arrange(devices, 3, 256, 5) != table


def test_large_pools_take_no_minutes() -> None:
    began = time.process_time()
    arrange([device(n, 10 + n % 7) for n in range(60)], 3, 8192, 1)
    assert time.process_time() - began < 10
