"""The clients' side of the control channel: who asks, whether they may, what answers; and the joiners' desk."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from master import cluster_calls, image_calls, pool_calls
from master.cluster import plan_pool
from master.core.layout import Table
from master.core.principals import ClientRecord
from master.daemons import DaemonDesk
from master.office import Calls, Office
from master.publisher import Publisher
from store.addresses import format_address
from store.control.channel import Connection, Quiet
from store.control.messages import Hello, Join, Message, PoolCreate, PoolIs, PoolRemove, Welcome
from store.errors import Status, StoreError
from store.limits import CONTROL_HANDSHAKE_S, HEARTBEAT_S, POOL_WAIT_MAX_S

log = structlog.get_logger()

CALLS: Final[Calls] = {**pool_calls.CALLS, **image_calls.CALLS, **cluster_calls.CALLS}
LARGE_LAYOUT: Final = 10_000  # groups times devices, from which on the layout is computed in a thread (> 20 ms)


class Session:
    """A client that has said Hello."""

    def __init__(self, name: str, program: str) -> None:
        self.name, self.program = name, program


class ClientDesk(Quiet):
    def __init__(
        self, office: Office, publisher: Publisher, daemons: DaemonDesk, refused: Callable[[str], None]
    ) -> None:
        self._office, self._publisher, self._daemons, self._refused = office, publisher, daemons, refused
        self.calls = 0

    def opened(self, connection: Connection) -> None:
        if connection.role is None or connection.role.kind != "client":
            self._refused("role")
            log.warning("refused: no client's certificate", peer=format_address(connection.address))
            connection.abort()

    def closed(self, connection: Connection) -> None:
        self._publisher.readers.pop(connection, None)
        if isinstance(connection.state, Session):
            self._office.connected[connection.state.name] -= 1

    async def call(self, connection: Connection, message: Message) -> Message:
        self.calls += 1
        asker = self._asker(connection)
        if isinstance(message, Hello):
            answer: Message = self._hello(connection, asker, message)
        elif not isinstance(connection.state, Session):
            raise StoreError(Status.INVALID, "say Hello first")
        elif isinstance(message, PoolCreate):
            answer = await self._create_pool(asker, message)
        elif isinstance(message, PoolRemove):
            pool_calls.check_removal(self._office, asker, message)
            if not message.force:
                await self._hear_from_everybody()
            answer = pool_calls.remove_pool(self._office, asker, message)
        elif (handle := CALLS.get(type(message))) is not None:
            answer = handle(self._office, asker, message)
        else:
            raise StoreError(Status.UNSUPPORTED, f"{type(message).__name__} is not for clients")
        self._publisher.kick()
        await self._office.cluster.ledger.settled()
        return answer

    def _asker(self, connection: Connection) -> ClientRecord:
        """Looked up for each call: a client that has been revoked is refused at once. Raises StoreError."""
        if connection.role is None or connection.role.kind != "client":
            raise StoreError(Status.DENIED, "only clients are served here")
        try:
            return self._office.cluster.principals.get(connection.role.name)
        except StoreError:
            self._refused("client")
            raise

    def _hello(self, connection: Connection, asker: ClientRecord, message: Hello) -> Welcome:
        if not isinstance(connection.state, Session):
            connection.state = Session(asker.name, message.program)
            self._office.connected[asker.name] += 1
            self._publisher.readers[connection] = None
        cluster = self._office.cluster
        return Welcome(
            cluster=cluster.id,
            client=asker.name,
            caps=asker.caps,
            generation=cluster.generation,
            map=cluster.map(),
        )

    async def _create_pool(self, asker: ClientRecord, message: PoolCreate) -> PoolIs:
        pool_calls.must_administer(asker)
        cluster = self._office.cluster
        wanted = (message.name, message.replicas, message.groups, message.min_write)
        cluster.pools.check(*wanted)
        table = await self._layout(message)
        record = cluster.create_pool(*wanted, table)
        cluster.note(asker.name, "pool create", record.name)
        return PoolIs(cluster.pool_status(record))

    async def _hear_from_everybody(self) -> None:
        """What devices hold is known from heartbeats: wait for one of each device that is up, but not for long."""
        cluster = self._office.cluster
        began = cluster.clock.boot()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * HEARTBEAT_S):
                while cluster.devices.unheard(cluster.clock.boot(), began):
                    self._daemons.beaten.clear()
                    await self._daemons.beaten.wait()

    async def _layout(self, message: PoolCreate) -> Table:
        """Waits for devices if asked to. Raises StoreError BUSY."""
        cluster, loop = self._office.cluster, asyncio.get_running_loop()
        end = loop.time() + min(message.wait, POOL_WAIT_MAX_S)
        while True:
            self._daemons.registered.clear()
            try:
                candidates = cluster.candidates(message.replicas, message.devices)
                break
            except StoreError:
                left = end - loop.time()
                if left <= 0:
                    raise
            try:
                async with asyncio.timeout(left):
                    await self._daemons.registered.wait()
            except TimeoutError:
                continue
        if message.groups * len(candidates) < LARGE_LAYOUT:
            return plan_pool(candidates, message.replicas, message.groups, cluster.pools.next_number)
        return await asyncio.to_thread(
            plan_pool, candidates, message.replicas, message.groups, cluster.pools.next_number
        )


class JoinDesk(Quiet):
    """Those without a certificate; they can do nothing but join."""

    def __init__(self, office: Office, refused: Callable[[str], None]) -> None:
        self._office, self._refused = office, refused

    def opened(self, connection: Connection) -> None:
        """Nobody knows who it is, so it may not stay."""
        asyncio.get_running_loop().call_later(CONTROL_HANDSHAKE_S, connection.abort)

    async def call(self, connection: Connection, message: Message) -> Message:
        if not isinstance(message, Join):
            self._refused("joiner")
            raise StoreError(Status.DENIED, "without a certificate one can only join")
        try:
            answer = self._office.admit(message)
        except StoreError:
            self._refused("join")
            raise
        finally:
            await self._office.cluster.ledger.settled()
        return answer
