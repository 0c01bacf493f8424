"""A master from its start to its end: directory, store, cluster, listeners; then a tick a second until a signal."""

import asyncio
import contextlib
import gc
import secrets
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Coroutine

import msgspec

from master.clients import ClientDesk, JoinDesk
from master.clock import Clock, SystemClock
from master.cluster import IDENTITY_KEY, Cluster, Identity
from master.daemons import DaemonDesk
from master.home import Home, open_home, write_client_config
from master.ledger import Ledger
from master.metastore.interface import Compare, StoreFailed
from master.metastore.sqlite import SqliteStore
from master.office import Office
from master.publisher import Publisher
from master.settings import Settings
from store.addresses import Address
from store.control.channel import Connection, Quiet
from store.control.listener import Joining, Listener
from store.control.messages import Message
from store.crypto.tls import join_server_context, server_context
from store.errors import ConfigError
from store.limits import GENERATION_MAX, MASTER_TICK_S

OWNER_KEY = "owner"


class EitherDesk(Quiet):
    """One port for both: the certificate says which desk a connection belongs to."""

    def __init__(self, daemons: DaemonDesk, clients: ClientDesk) -> None:
        self._daemons, self._clients = daemons, clients

    def opened(self, connection: Connection) -> None:
        self._desk(connection).opened(connection)

    def closed(self, connection: Connection) -> None:
        self._desk(connection).closed(connection)

    async def call(self, connection: Connection, message: Message) -> Message:
        return await self._desk(connection).call(connection, message)

    async def push(self, connection: Connection, message: Message) -> None:
        await self._desk(connection).push(connection, message)

    def _desk(self, connection: Connection) -> Quiet:
        daemon = connection.role is not None and connection.role.is_daemon
        return self._daemons if daemon else self._clients


class Master:
    """One master. `start`, then `run_until_stopped`, and `stop` in any case."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings, self._clock = settings, clock or SystemClock()
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._cleanup = contextlib.AsyncExitStack()
        self.refused: Counter[str] = Counter()  # by reason

    async def start(self) -> None:
        """Raises ConfigError or StoreFailed, one line for the person who started it."""
        home = open_home(self._settings)
        self._cleanup.callback(home.close)
        store = await SqliteStore.open(home.database)
        self._cleanup.push_async_callback(store.close)
        self.cluster = await self._load(home, store)
        self.publisher = Publisher(self.cluster)
        self.daemons = DaemonDesk(self.cluster, self.publisher, self._refuse)
        self._listen(home)
        if self._settings.metrics is not None:
            from master.metrics import Figures, serve  # noqa: PLC0415 - only for those who ask

            figures = Figures(self.cluster, self.publisher, self.daemons, self.clients, self.refused)
            self._cleanup.callback(serve(self._settings.metrics, figures))
        self._own(self.publisher.run())
        self._own(self._tick())
        await self.cluster.ledger.settled()
        if self._settings.client_config is not None:
            masters = (self._advertised(self.address),)
            write_client_config(home, self._settings.client_config, masters, self._settings.client_pool)
        gc.collect()
        gc.freeze()

    async def _load(self, home: Home, store: SqliteStore) -> Cluster:
        former = await store.get(OWNER_KEY)
        compare = Compare(OWNER_KEY, 0 if former is None else former.revision)
        revision = await store.transact((compare,), {OWNER_KEY: secrets.token_bytes(16)})
        if revision is None:
            raise ConfigError(f"another master works on {home.database}")
        ledger = Ledger(store, Compare(OWNER_KEY, revision), self._fail)
        self._cleanup.push_async_callback(ledger.close)
        items = [(item.key, item.value) for item in await store.range("")]
        identity = self._identify(home, dict(items).get(IDENTITY_KEY))
        ledger.put(IDENTITY_KEY, msgspec.msgpack.encode(identity))
        try:
            return Cluster(ledger, identity, self._clock, secrets.token_bytes, items)
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreFailed(f"{home.database} holds something this version cannot read: {error}") from error

    def _identify(self, home: Home, stored: bytes | None) -> Identity:
        if stored is None:
            return Identity(home.cluster)
        identity = msgspec.msgpack.decode(stored, type=Identity)
        if identity.cluster != home.cluster:
            was, given = identity.cluster.hex()[:8], home.cluster.hex()[:8]
            raise ConfigError(f"{home.directory} belongs to cluster {was}, the certificates to {given}")
        restored = self._settings.restored
        if restored is None:
            return identity
        if not identity.generation < restored <= GENERATION_MAX:
            text = f"--restored needs a number above {identity.generation} and at most {GENERATION_MAX}"
            raise ConfigError(f"{text}, and above all this cluster ever had")
        written_under = identity.restoring or identity.generation
        return Identity(identity.cluster, restored, written_under)

    def _listen(self, home: Home) -> None:
        settings, cluster = self._settings, self.cluster
        office = Office(cluster, home.signer)
        self.clients = ClientDesk(office, self.publisher, self.daemons, self._refuse)
        joining: Joining | None = None
        if home.signer is not None:
            context = join_server_context(home.for_daemons)
            joining = Joining(home.for_daemons.authority, context, JoinDesk(office, self._refuse))
        for_clients = server_context(home.for_clients)
        if settings.peer_listen is None:
            self.address = self._open(for_clients, EitherDesk(self.daemons, self.clients), joining, settings.listen)
            self.peer_address = self.address
        else:
            for_daemons = server_context(home.for_daemons)
            self.address = self._open(for_clients, self.clients, joining, settings.listen)
            self.peer_address = self._open(for_daemons, self.daemons, joining, settings.peer_listen)
        office.for_clients = (self._advertised(self.address),)
        office.for_daemons = (self._advertised(self.peer_address),)

    def _open(self, context: ssl.SSLContext, desk: Quiet, joining: Joining | None, address: Address) -> Address:
        listener = Listener(context, desk, joining, self._refuse)
        bound = listener.listen(address)
        self._cleanup.push_async_callback(listener.close)
        return bound

    def _advertised(self, address: Address) -> Address:
        """What others should dial: a wildcard is no address to send to."""
        host, port = address
        if self._settings.advertise:
            return (self._settings.advertise, port)
        return (_this_machine() if host in ("0.0.0.0", "::") else host, port)

    # --- running

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(MASTER_TICK_S)
            self.cluster.tick()
            self.publisher.kick()

    def _own(self, work: Coroutine[None, None, None]) -> None:
        """A task for as long as the master runs; if it fails, the master ends."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._task_ended)
        self._cleanup.push_async_callback(_cancel, task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stopping.set()

    def _refuse(self, reason: str) -> None:
        self.refused[reason] += 1

    async def run_until_stopped(self) -> None:
        """Until SIGTERM or SIGINT, or until something fails, which is then raised."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._stopping.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Listeners first, then what they have decided is made durable, then the store."""
        await self._cleanup.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _this_machine() -> str:
    """The address this machine uses towards others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))
        host: str = sock.getsockname()[0]
        return host
    return socket.gethostname()
