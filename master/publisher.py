"""Tells daemons and clients what has changed, once it is durable; many changes in one message."""

import asyncio
from typing import Final

from master.cluster import Cluster
from master.core.authority import Push
from store.control.channel import Connection
from store.control.messages import Decided, MapIs, SecretsAre
from store.ids import DeviceId
from store.limits import DECIDED_MAX, MAP_PUSH_S
from store.placement.storage_map import StorageMap


class Station:
    """A registered device's connection. What is said before the answer to its registration waits for that."""

    def __init__(self, connection: Connection, device: DeviceId, incarnation: int) -> None:
        self.connection, self.device, self.incarnation = connection, device, incarnation
        self._waiting: list[Decided] | None = []

    def decide(self, message: Decided) -> None:
        if self._waiting is None:
            self.connection.push(message)
        else:
            self._waiting.append(message)

    def answered(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for message in waiting:
            self.connection.push(message)


class Publisher:
    """`kick` it after every decision. One task, so that what is decided first is told first."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kicked = asyncio.Event()
        self._drawing: asyncio.TimerHandle | None = None
        self._last_map = 0.0
        self._key_epoch = cluster.credentials.key_epoch
        self.stations: Final[dict[DeviceId, Station]] = {}
        self.readers: Final[dict[Connection, None]] = {}  # clients that want maps
        self.map: StorageMap | None = None  # the last one told to everybody
        self.maps_sent = 0

    def kick(self) -> None:
        if self._cluster.pushes:
            self._kicked.set()
        if self._is_stale() and self._drawing is None:
            loop = asyncio.get_running_loop()
            self._drawing = loop.call_at(max(loop.time(), self._last_map + MAP_PUSH_S), self._draw_now)

    async def run(self) -> None:
        """Until cancelled. Raises StoreFailed."""
        while True:
            await self._kicked.wait()
            self._kicked.clear()
            pushes, self._cluster.pushes = self._cluster.pushes, []
            drawn = self._cluster.map() if self._drawing is None and self._is_stale() else None
            await self._cluster.ledger.settled()
            self._tell(pushes)
            if drawn is not None:
                self._tell_map(drawn)
            self.kick()

    def _is_stale(self) -> bool:
        """There is a map, or should be one, that not everybody has been told."""
        charts = self._cluster.cartography
        return charts.outdated or self.map is None or self.map.epoch != charts.epoch.value

    def _draw_now(self) -> None:
        self._drawing = None
        self._last_map = asyncio.get_running_loop().time()
        self._kicked.set()

    def _tell(self, pushes: list[Push]) -> None:
        """What one device is told travels together, in frames of a bounded size."""
        told: dict[DeviceId, list[Push]] = {}
        for push in pushes:
            told.setdefault(push.device, []).append(push)
        for device, mine in told.items():
            station = self.stations.get(device)
            if station is not None:
                for start in range(0, len(mine), DECIDED_MAX):
                    station.decide(Decided(tuple(push.message for push in mine[start : start + DECIDED_MAX])))

    def _tell_map(self, drawn: StorageMap) -> None:
        self.map = drawn
        message = MapIs(drawn)
        rotated, self._key_epoch = drawn.key_epoch != self._key_epoch, drawn.key_epoch
        for station in list(self.stations.values()):
            if rotated:
                station.connection.push(SecretsAre(self._cluster.credentials.secrets(station.device)))
            station.connection.push(message)
            self.maps_sent += 1
        for reader in list(self.readers):
            reader.push(message)
            self.maps_sent += 1
