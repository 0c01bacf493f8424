"""Which devices hold which group: capacity-true, failure domains apart, few moves. Pure. See PLACEMENT.md, 'Layout'.

1. How many members of one group may share a host or a zone: the smallest numbers that still allow `replicas` members.
2. How many groups each device should hold: its share by capacity, as far as those limits allow.
3. Where to begin: the present table, and for empty places weighted rendezvous hashing (Thaler and Ravishankar 1998,
   weights as -w / ln u), which is what few moves need.
4. Correction: groups go from devices above their number to those below along shortest chains of valid swaps, which are
   the augmenting paths of the minimum-cost flow whose cost is the number of moves.
5. The primaries, by the same method among each group's members.
"""

import math
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import mmh3

from store.ids import DeviceId

Table = tuple[tuple[DeviceId, ...], ...]  # per group its members, the preferred primary first

_KEY: Final = struct.Struct("<I16s")
_UNIT: Final = 1 << 53


class Candidate(NamedTuple):
    """A device that may hold groups."""

    id: DeviceId  # 16 bytes
    host: str
    zone: str
    weight: int  # capacity in bytes, > 0


class TooFewDevices(ValueError):
    """Fewer devices than copies: two copies on one device would be lost together."""


class Domains(NamedTuple):
    """Limits of step 1, and each device's domains as numbers."""

    host: tuple[int, ...]
    zone: tuple[int, ...]
    per_host: int
    per_zone: int


def arrange(
    candidates: Sequence[Candidate], replicas: int, groups: int, salt: int, present: Table | None = None
) -> Table:
    """The table for these devices. `salt` keeps pools apart; `present` is the table to keep as much of as possible.

    Raises TooFewDevices. The result depends on the arguments alone, not on their order of devices.
    """
    devices = sorted(candidates)
    if len(devices) < replicas:
        raise TooFewDevices(
            f"needs {replicas} devices, {len(devices)} {'is' if len(devices) == 1 else 'are'} registered"
        )
    domains = find_domains(devices, replicas)
    table = _Holdings(domains, len(devices), groups)
    if present is not None:
        place_of = {device.id: place for place, device in enumerate(devices)}
        for group, members in enumerate(present):
            table.fill(group, (place_of[device] for device in members if device in place_of), replicas)
    for group in range(groups):
        if len(table.members[group]) < replicas:
            table.fill(group, _ranking(devices, group, salt), replicas)
    _balance(table, targets(devices, domains, replicas, groups))
    primaries = _Primaries(table.members, len(devices))
    share = _round([count / replicas for count in table.counts], [groups] * len(devices), groups)
    _balance(primaries, share)
    ids = [device.id for device in devices]
    return tuple(
        (ids[first], *(ids[place] for place in members if place != first))
        for first, members in zip(primaries.of, table.members, strict=True)
    )


def moves(before: Table, after: Table) -> int:
    """How many copies of a group must be made to get from one table to the other."""
    return sum(len(set(new) - set(old)) for old, new in zip(before, after, strict=True))


def find_domains(devices: Sequence[Candidate], replicas: int) -> Domains:
    """Step 1. A host of one name in two zones counts as two hosts."""
    zones = {name: number for number, name in enumerate(sorted({device.zone for device in devices}))}
    pairs = sorted({(device.zone, device.host) for device in devices})
    hosts = {pair: number for number, pair in enumerate(pairs)}
    host = tuple(hosts[device.zone, device.host] for device in devices)
    zone = tuple(zones[device.zone] for device in devices)
    in_host = [host.count(number) for number in range(len(pairs))]
    per_host = _least_limit(in_host, replicas)
    room = [sum(min(per_host, in_host[hosts[pair]]) for pair in pairs if pair[0] == name) for name in zones]
    return Domains(host, zone, per_host, _least_limit(room, replicas))


def _least_limit(rooms: Sequence[int], replicas: int) -> int:
    return next(limit for limit in range(1, replicas + 1) if sum(min(limit, room) for room in rooms) >= replicas)


def targets(devices: Sequence[Candidate], domains: Domains, replicas: int, groups: int) -> list[int]:
    """Step 2: how many groups each device should hold; the sum is replicas * groups.

    Shares are by weight, from zones to hosts to devices; what a domain may not take goes to the others by weight.
    """
    weights = [device.weight for device in devices]
    places = range(len(devices))
    host_places = [[p for p in places if domains.host[p] == h] for h in range(max(domains.host) + 1)]
    zone_hosts = [
        sorted({domains.host[p] for p in places if domains.zone[p] == z}) for z in range(max(domains.zone) + 1)
    ]
    host_weight = [sum(weights[p] for p in members) for members in host_places]
    host_cap = [groups * min(domains.per_host, len(members)) for members in host_places]
    zone_weight = [sum(host_weight[h] for h in hosts) for hosts in zone_hosts]
    zone_cap = [min(groups * domains.per_zone, sum(host_cap[h] for h in hosts)) for hosts in zone_hosts]
    result = [0] * len(devices)
    for hosts, zone_total in zip(zone_hosts, _share(replicas * groups, zone_weight, zone_cap), strict=True):
        caps = [host_cap[h] for h in hosts]
        for host, host_total in zip(hosts, _share(zone_total, [host_weight[h] for h in hosts], caps), strict=True):
            members = host_places[host]
            counts = _share(host_total, [weights[p] for p in members], [groups] * len(members))
            for place, count in zip(members, counts, strict=True):
                result[place] = count
    return result


def _share(total: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """`total` by weight, none above its cap, in whole numbers. The caps must have room for it."""
    shares, open_places, left = [0.0] * len(weights), list(range(len(weights))), float(total)
    while open_places:
        weight = sum(weights[place] for place in open_places)
        full = [place for place in open_places if left * weights[place] / weight >= caps[place]]
        if not full:
            for place in open_places:
                shares[place] = left * weights[place] / weight
            break
        for place in full:
            shares[place] = caps[place]
            left -= caps[place]
        open_places = [place for place in open_places if place not in full]
    return _round(shares, caps, total)


def _round(shares: Sequence[float], caps: Sequence[int], total: int) -> list[int]:
    """Largest remainders first (Hamilton), within the caps."""
    counts = [min(cap, math.floor(share + 1e-9)) for share, cap in zip(shares, caps, strict=True)]
    order = sorted(range(len(shares)), key=lambda place: (counts[place] - shares[place], place))
    missing = total - sum(counts)
    while missing > 0:
        for place in order:
            if missing > 0 and counts[place] < caps[place]:
                counts[place] += 1
                missing -= 1
    return counts


def _ranking(devices: Sequence[Candidate], group: int, salt: int) -> Iterator[int]:
    """Places of devices, the highest weighted rendezvous score first; computed only if somebody asks."""
    scores = []
    for place, device in enumerate(devices):
        unit = ((mmh3.hash128(_KEY.pack(group, device.id), salt, True) >> 75) + 0.5) / _UNIT
        scores.append((math.log(unit) / device.weight, place))
    scores.sort(reverse=True)
    return (place for _, place in scores)


class _Balanced(Protocol):
    """Something each group has of devices, of which every device should have a given number."""

    counts: list[int]

    def held(self, giver: int) -> list[int]:
        """Groups the giver has something of, those that cost least to give away first."""

    def may_take(self, group: int, giver: int, taker: int) -> bool: ...

    def swap(self, group: int, giver: int, taker: int) -> None: ...


class _Holdings:
    """Members of each group, as places of devices, and what may be swapped."""

    def __init__(self, domains: Domains, devices: int, groups: int) -> None:
        self._domains = domains
        self.members: list[list[int]] = [[] for _ in range(groups)]
        self.counts = [0] * devices
        self._held: list[dict[int, None]] = [{} for _ in range(devices)]

    def fill(self, group: int, source: Iterable[int], replicas: int) -> None:
        """A laminar matroid: taking whatever fits of a full ranking always ends with `replicas` members."""
        members = self.members[group]
        for place in source:
            if len(members) < replicas and self._fits(members, place):
                members.append(place)
                self.counts[place] += 1
                self._held[place][group] = None

    def held(self, giver: int) -> list[int]:
        """Newest first: what has just been given to a device is not there yet, and costs nothing to give on."""
        return list(reversed(self._held[giver]))

    def may_take(self, group: int, giver: int, taker: int) -> bool:
        return self._fits([place for place in self.members[group] if place != giver], taker, giver)

    def swap(self, group: int, giver: int, taker: int) -> None:
        members = self.members[group]
        members[members.index(giver)] = taker
        del self._held[giver][group]
        self._held[taker][group] = None
        self.counts[giver] -= 1
        self.counts[taker] += 1

    def _fits(self, members: Sequence[int], place: int, leaving: int = -1) -> bool:
        if place in members or place == leaving:
            return False
        host, zone = self._domains.host, self._domains.zone
        same_host = same_zone = 0
        for other in members:
            same_host += host[other] == host[place]
            same_zone += zone[other] == zone[place]
        return same_host < self._domains.per_host and same_zone < self._domains.per_zone


class _Primaries:
    """Which member of each group comes first; to begin with, the one that did."""

    def __init__(self, members: Sequence[Sequence[int]], devices: int) -> None:
        self._members = members
        self.of = [places[0] for places in members]
        self.counts = [0] * devices
        self._led: list[dict[int, None]] = [{} for _ in range(devices)]
        for group, place in enumerate(self.of):
            self.counts[place] += 1
            self._led[place][group] = None

    def held(self, giver: int) -> list[int]:
        return list(self._led[giver])

    def may_take(self, group: int, giver: int, taker: int) -> bool:
        return taker != giver and taker in self._members[group]

    def swap(self, group: int, giver: int, taker: int) -> None:
        self.of[group] = taker
        del self._led[giver][group]
        self._led[taker][group] = None
        self.counts[giver] -= 1
        self.counts[taker] += 1


def _balance(table: _Balanced, wanted: Sequence[int]) -> None:
    """Bring `table.counts` to `wanted`: single swaps in one pass over each giver's groups, then chains for the rest."""
    counts = table.counts
    places = range(len(counts))
    for giver in places:
        lacking = [place for place in places if counts[place] < wanted[place]]
        for group in table.held(giver):
            if counts[giver] <= wanted[giver] or not lacking:
                break
            takers = [place for place in lacking if table.may_take(group, giver, place)]
            if takers:
                taker = max(takers, key=lambda place: wanted[place] - counts[place])
                table.swap(group, giver, taker)
                if counts[taker] == wanted[taker]:
                    lacking.remove(taker)
    for giver in places:
        for _ in range(2 * max(0, counts[giver] - wanted[giver])):  # a chain may fail half-way: then another is tried
            if counts[giver] > wanted[giver]:
                _give_along_a_chain(giver, table, wanted)


def _give_along_a_chain(giver: int, table: _Balanced, wanted: Sequence[int]) -> None:
    """Last swap first. Each was valid alone; should an earlier one of the same group forbid it, the chain ends there,
    leaving a valid table in which the lack has moved closer to the giver."""
    for source, group, taker in _shortest_chain(giver, table, wanted):
        if not table.may_take(group, source, taker):
            return
        table.swap(group, source, taker)


def _shortest_chain(giver: int, table: _Balanced, wanted: Sequence[int]) -> list[tuple[int, int, int]]:
    """(source, group, taker) of each swap from the end of the chain to its beginning; empty: there is none."""
    came: dict[int, tuple[int, int]] = {}
    queue = deque([giver])
    while queue:
        source = queue.popleft()
        unseen = [place for place in range(len(wanted)) if place != giver and place not in came]
        for group in table.held(source):
            for taker in [place for place in unseen if table.may_take(group, source, place)]:
                came[taker] = (source, group)
                unseen.remove(taker)
                if table.counts[taker] < wanted[taker]:
                    return _trace(giver, taker, came)
                queue.append(taker)
            if not unseen:
                break
    return []


def _trace(giver: int, taker: int, came: dict[int, tuple[int, int]]) -> list[tuple[int, int, int]]:
    chain = []
    while taker != giver:
        source, group = came[taker]
        chain.append((source, group, taker))
        taker = source
    return chain
