"""A master in this process, on real sockets with real TLS, and the daemons and clients that a test plays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from master.clock import SystemClock
from master.server import Master
from master.settings import Settings
from store.addresses import Address
from store.control.arbiter import Cas, ConfigIs, ConfigsAre, FromMaster, Register, ToMaster
from store.control.channel import Connection, Quiet, dial
from store.control.joining import join
from store.control.messages import (
    Arbitrate,
    Decided,
    DeviceRegistered,
    Heartbeat,
    HeartbeatOk,
    Hello,
    JoinTicketCreate,
    JoinTicketIs,
    MapIs,
    Message,
    PoolUsage,
    RegisterDevice,
    SecretsAre,
    Welcome,
)
from store.crypto.identity import MASTER
from store.crypto.keys import KeyRing
from store.crypto.tls import Credentials, client_context
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig
from store.placement.storage_map import StorageMap

LOCAL = ("127.0.0.1", 0)
GIB = 1 << 30


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(scenario, 30))


class MovableClock(SystemClock):
    """The machine's clocks, plus what the test adds."""

    def __init__(self) -> None:
        self.ahead = 0

    def boot(self) -> float:
        return super().boot() + self.ahead

    def wall(self) -> int:
        return super().wall() + self.ahead


@contextlib.asynccontextmanager
async def master_in(directory: Path, clock: MovableClock | None = None, **options: Any) -> AsyncIterator[Master]:
    fields: dict[str, Any] = {"directory": directory / "master", "listen": LOCAL, "peer_listen": LOCAL}
    settings = Settings(**(fields | options))
    master = Master(settings, clock)
    try:
        await master.start()
        yield master
    finally:
        await master.stop()


class Listening(Quiet):
    """Remembers maps; lets a test wait for something it is told."""

    def __init__(self) -> None:
        self.map: StorageMap | None = None
        self.maps = 0
        self._news = asyncio.Event()

    async def push(self, connection: Connection, message: Message) -> None:
        if isinstance(message, MapIs):
            self.map, self.maps = message.map, self.maps + 1
        self.told(message)
        self._news.set()

    def told(self, message: Message) -> None:
        """For subclasses."""

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def until_map(self, condition: Callable[[StorageMap], object]) -> StorageMap:
        await self.until(lambda: self.map is not None and condition(self.map))
        assert self.map is not None
        return self.map


class PlayedClient(Listening):
    """A client of the control channel."""

    connection: Connection
    welcome: Welcome

    @classmethod
    async def connect(cls, master: Master, credentials: Credentials) -> "PlayedClient":
        client = cls()
        client.connection = await dial(master.address, client_context(credentials), MASTER, client)
        client.welcome = await client.connection.call(Hello("test"), Welcome)
        client.map = client.welcome.map
        return client

    @classmethod
    async def admin(cls, master: Master, directory: Path) -> "PlayedClient":
        return await cls.connect(master, admin_credentials(directory))


def admin_credentials(directory: Path) -> Credentials:
    folder = directory / "master"
    return Credentials.read(folder / "admin.crt", folder / "admin.key", folder / "ca.crt")


class PlayedDaemon(Listening):
    """A daemon as the master sees it: registers, beats, proposes; keeps what it is told."""

    connection: Connection
    answer: DeviceRegistered

    def __init__(self, number: int, credentials: Credentials) -> None:
        super().__init__()
        self.device = DeviceId(bytes([number]) * 16)
        self.who = Who(self.device, 1000 + number)
        self.credentials = credentials
        self.keys = KeyRing()
        self.configs: dict[GroupId, GroupConfig] = {}
        self.decided: list[FromMaster] = []

    def told(self, message: Message) -> None:
        if isinstance(message, SecretsAre):
            self.keys.install(message.secrets)
        elif isinstance(message, Decided):
            self.decided += message.messages
            for each in message.messages:
                self.adopt(each)

    def adopt(self, message: FromMaster) -> None:
        if isinstance(message, ConfigIs):
            self.configs[message.group] = message.config
        elif isinstance(message, ConfigsAre):
            self.configs.update((each.group, each.config) for each in message.configs)

    async def until_it_has(self, groups: int) -> None:
        await self.until(lambda: len(self.configs) == groups)

    async def until_asked(self, question: FromMaster) -> None:
        await self.until(lambda: question in self.decided)

    async def until_above(self, group: GroupId, order: tuple[int, int]) -> None:
        await self.until(lambda: self.configs[group].order > order)

    async def register(self, master: Master, **changed: Any) -> DeviceRegistered:
        return await self.register_at(master.peer_address, **changed)

    async def register_at(self, address: Address, **changed: Any) -> DeviceRegistered:
        context = client_context(self.credentials)
        self.connection = await dial(address, context, MASTER, self)
        number = self.device[0]
        fields: dict[str, Any] = {
            "device": self.device, "cluster": b"", "incarnation": self.who.incarnation,
            "claim": Register(self.device, (), self.who.incarnation), "address": ("127.0.0.1", 7000 + number),
            "peer": ("127.0.0.1", 8000 + number), "host": f"host{number}", "zone": "", "capacity": GIB, "used": 0,
        }  # fmt: skip
        self.answer = await self.connection.call(RegisterDevice(**(fields | changed)), DeviceRegistered)
        self.keys.install(self.answer.secrets)
        self.map = self.answer.map
        for config in self.answer.configs:
            self.adopt(config)
        return self.answer

    async def beat(self, *pools: PoolUsage) -> HeartbeatOk:
        return await self.connection.call(Heartbeat(used=5, free=6, pools=pools), HeartbeatOk)

    def say(self, *messages: ToMaster) -> None:
        self.connection.push(Arbitrate(messages))

    def cas(self, group: GroupId, kind: str, new: GroupConfig) -> Cas:
        return Cas(group, self.who, kind, self.configs[group].order, new, ())


async def daemon_credentials(admin: PlayedClient) -> Credentials:
    ticket = await admin.connection.call(JoinTicketCreate(role="daemon"), JoinTicketIs)
    return (await join(ticket.ticket))[1]


async def daemons_of(master: Master, admin: PlayedClient, count: int) -> list[PlayedDaemon]:
    """Registered ones; all use one certificate, which names no device."""
    credentials = await daemon_credentials(admin)
    daemons = [PlayedDaemon(number, credentials) for number in range(1, count + 1)]
    for daemon in daemons:
        await daemon.register(master)
    return daemons
