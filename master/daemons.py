"""The daemons' side of the control channel: registration, heartbeats, proposals about configurations."""

import asyncio
from collections.abc import Callable

import structlog

from master.cluster import Cluster
from master.publisher import Publisher, Station
from store.addresses import format_address
from store.control.arbiter import Register
from store.control.channel import Connection, Quiet
from store.control.messages import Arbitrate, DeviceRegistered, Heartbeat, HeartbeatOk, Message, RegisterDevice
from store.errors import Status, StoreError
from store.limits import GRACE_S

log = structlog.get_logger()


class DaemonDesk(Quiet):
    def __init__(self, cluster: Cluster, publisher: Publisher, refused: Callable[[str], None]) -> None:
        self._cluster, self._publisher, self._refused = cluster, publisher, refused
        self.proposals = 0
        self.registered = asyncio.Event()  # set whenever a device has registered
        self.beaten = asyncio.Event()  # set whenever one has said what it holds

    def opened(self, connection: Connection) -> None:
        if connection.role is None or not connection.role.is_daemon:
            self._refused("role")
            log.warning("refused: no daemon's certificate", peer=format_address(connection.address))
            connection.abort()

    def closed(self, connection: Connection) -> None:
        station = connection.state
        if isinstance(station, Station) and self._publisher.stations.get(station.device) is station:
            del self._publisher.stations[station.device]
            log.info("device disconnected", device=station.device.hex())

    async def call(self, connection: Connection, message: Message) -> Message:
        if connection.role is None or not connection.role.is_daemon:
            raise StoreError(Status.DENIED, "only daemons are served here")
        if isinstance(message, RegisterDevice):
            return await self._register(connection, message)
        if isinstance(message, Heartbeat):
            device = _station(connection).device
            self._cluster.devices.heard(self._cluster.clock.boot(), device, message)
            self.beaten.set()
            told = self._publisher.map
            return HeartbeatOk((0, 0) if told is None else told.order, self._cluster.credentials.key_epoch)
        raise StoreError(Status.UNSUPPORTED, f"{type(message).__name__} is not for daemons")

    async def push(self, connection: Connection, message: Message) -> None:
        if not isinstance(message, Arbitrate):
            return
        station = _station(connection)
        self.proposals += len(message.messages)
        mine = []
        for each in message.messages:
            if isinstance(each, Register):
                if each.device != station.device:
                    continue
                station.incarnation = each.incarnation
            mine.append(each)
        self._cluster.arbitrate(station.device, mine)
        self._publisher.kick()
        if any(isinstance(each, Register) for each in mine):
            self.registered.set()

    async def _register(self, connection: Connection, said: RegisterDevice) -> DeviceRegistered:
        self._admit(connection, said)
        cluster = self._cluster
        verdict = cluster.register(said)
        record = cluster.devices.get(said.device)
        assert record is not None
        answer = DeviceRegistered(
            cluster=cluster.id,
            name=record.name,
            answer=verdict,
            generation=cluster.generation,
            secrets=cluster.credentials.secrets(said.device),
            configs=cluster.configs_for(said.device),
            map=cluster.map(),
        )
        station = Station(connection, said.device, said.incarnation)
        connection.state = self._publisher.stations[said.device] = station
        self._publisher.kick()
        await cluster.ledger.settled()
        asyncio.get_running_loop().call_soon(station.answered)
        self.registered.set()
        log.info("device registered", device=said.device.hex(), name=record.name, address=format_address(said.address))
        return answer

    def _admit(self, connection: Connection, said: RegisterDevice) -> None:
        """Raises StoreError. A restarted daemon's old connection is closed by its kernel; one that is still alive and
        speaks for another life of the disk means two processes, or a copy of the disk."""
        assert connection.role is not None
        if not connection.role.may_serve(said.device):
            self._refused("device")
            raise StoreError(Status.DENIED, "this certificate is for another device")
        if said.claim is not None and said.claim.device != said.device:
            raise StoreError(Status.INVALID, "the claim is for another device")
        other = self._publisher.stations.get(said.device)
        if other is None or other.connection is connection:
            return
        silent = self._cluster.devices.silent_for(self._cluster.clock.boot(), said.device)
        if other.incarnation != said.incarnation and other.connection.is_open and silent < GRACE_S:
            where = format_address(other.connection.address)
            raise StoreError(Status.CONFLICT, f"device {said.device.hex()} is served by another process, from {where}")
        other.connection.abort()


def _station(connection: Connection) -> Station:
    if not isinstance(connection.state, Station):
        raise StoreError(Status.INVALID, "register first")
    return connection.state
