"""What lets a client talk to daemons: the storage map and a ticket with its key at each device.

`MasterAccess` gets them from the master and keeps them fresh; while the master is away the last ones go on working, and
so does the client. `DirectAccess` makes them itself, for a daemon without a master on this machine (store/direct.py).
Both run inside an event loop; a blocking client gives them one in a thread of its own (link_thread.py).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from store import direct
from store.addresses import Address
from store.client.config import ClientConfig
from store.client.routing import Want
from store.control.channel import Connection, Quiet
from store.control.link import MasterLink
from store.control.messages import GetMap, GetTicket, Hello, MapIs, Message, TicketIs, Welcome
from store.crypto.keys import derive_ticket_key
from store.crypto.ticket import TICKET_VERSION, Cap, Right, Ticket, seal_ticket
from store.errors import ConfigError, StoreError
from store.ids import DeviceId
from store.limits import CLIENT_BACKOFF_MAX_S, CONTROL_CALL_S, TICKET_LIFETIME_S
from store.placement.storage_map import StorageMap

log = structlog.get_logger()

A = TypeVar("A", bound=msgspec.Struct)

FIRST_CONNECT_S: Final = 5.0
RENEW_RETRY_S: Final = 5.0
SERIALS_KEPT: Final = 4  # tickets of former sessions, with which requests under way may still end
_map_decoder: Final = msgspec.msgpack.Decoder(StorageMap)


class Credentials(msgspec.Struct, frozen=True):
    """A ticket, the session it stands for, and its key at each device."""

    ticket: bytes
    serial: int
    keys: dict[DeviceId, bytes]


class Standing:
    """The newest map and credentials; replaced as wholes, so any thread may read them."""

    def __init__(self, storage_map: StorageMap, credentials: Credentials) -> None:
        self.storage_map = storage_map
        self.credentials = credentials
        self.by_serial = {credentials.serial: credentials}
        self.changed: Callable[[], None] = lambda: None  # called in the loop after every change

    def take_map(self, storage_map: StorageMap) -> None:
        if storage_map.order > self.storage_map.order:
            self.storage_map = storage_map
            self.changed()

    def take_credentials(self, credentials: Credentials) -> None:
        kept = dict(list(self.by_serial.items())[-SERIALS_KEPT:])
        kept[credentials.serial] = credentials
        self.by_serial, self.credentials = kept, credentials
        self.changed()


class Access(Protocol):
    """Where map and tickets come from."""

    @property
    def standing(self) -> Standing: ...

    def want(self, wants: set[Want]) -> None:
        """Ask for these; answers come as changes of `standing`. Cheap to call again while an answer is on its way."""

    async def close(self) -> None: ...


class _Pushes(Quiet):
    """The maps that a master sends unasked."""

    def __init__(self, take: Callable[[StorageMap], None]) -> None:
        self._take = take

    async def push(self, connection: Connection, message: Message) -> None:
        if isinstance(message, MapIs):
            self._take(message.map)


class MasterAccess:
    """Map, tickets and calls by way of the master."""

    def __init__(self, config: ClientConfig, program: str) -> None:
        self._link = MasterLink(config.masters, config.tls(), _Pushes(self.take_map), self._greet)
        self._program = program
        self._standing: Standing | None = None
        self._task: asyncio.Task[None] | None = None
        self._wants: set[Want] = set()
        self._wanted = asyncio.Event()
        self._renew_at = 0.0  # loop time

    async def open(self, deadline_s: float = FIRST_CONNECT_S) -> None:
        """Connects for the first time. Raises StoreError when no master can be reached or it refuses."""
        self._link.start()
        await self._link.wait_connected(deadline_s)
        self._task = asyncio.get_running_loop().create_task(self._keep_fresh())

    @property
    def standing(self) -> Standing:
        assert self._standing is not None, "open() first"
        return self._standing

    async def call(self, message: msgspec.Struct, answer: type[A], deadline_s: float = CONTROL_CALL_S) -> A:
        """A call to the master, once connected. Raises StoreError."""
        return await self._link.call(message, answer, deadline_s)

    def want(self, wants: set[Want]) -> None:
        self._wants |= wants
        self._wanted.set()

    def take_map(self, storage_map: StorageMap) -> None:
        """The master pushed it."""
        if self._standing is not None:
            self._standing.take_map(storage_map)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._link.close()

    async def _greet(self, connection: Connection) -> None:
        welcome = await connection.call(Hello(program=self._program), Welcome)
        if self._standing is None:
            ticket = await connection.call(GetTicket(), TicketIs)
            self._standing = Standing(welcome.map, self._taken(ticket))
        else:
            self._standing.take_map(welcome.map)

    def _taken(self, answer: TicketIs) -> Credentials:
        self._renew_at = asyncio.get_running_loop().time() + answer.renew_in
        return Credentials(answer.ticket, answer.serial, answer.keys)

    async def _keep_fresh(self) -> None:
        """Renews the ticket in time, and gets what the router finds missing, at most once per back-off."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._renew_at):
                    await self._wanted.wait()
            except TimeoutError:
                self._wants.add(Want.TICKET)
            self._wanted.clear()
            wants, self._wants = self._wants, set()
            try:
                await self._fetch(wants)
                self._wants.clear()  # raised while the answer was on its way; what it does not cure is raised again
            except StoreError as error:
                log.info("the master did not give a map or ticket; going on with the last ones", reason=str(error))
                self._renew_at = max(self._renew_at, loop.time() + RENEW_RETRY_S)
            await asyncio.sleep(CLIENT_BACKOFF_MAX_S / 2)

    async def _fetch(self, wants: set[Want]) -> None:
        standing = self.standing
        if Want.MAP in wants:
            standing.take_map((await self._link.call(GetMap(), MapIs)).map)
        if Want.SESSION in wants:
            standing.take_credentials(self._taken(await self._link.call(GetTicket(), TicketIs)))
        elif Want.TICKET in wants:
            renewed = await self._link.call(GetTicket(renew=standing.credentials.serial), TicketIs)
            standing.take_credentials(self._taken(renewed))


class DirectAccess:
    """Map and tickets for one daemon without a master, made from its access file."""

    def __init__(self, address: Address) -> None:
        """Raises ConfigError when this user on this machine has no access file of a daemon at `address`."""
        self._address = address
        self._access = direct.discover(address)
        self._standing = Standing(self._map(), self._ticket(_new_serial()))

    @property
    def standing(self) -> Standing:
        return self._standing

    def want(self, wants: set[Want]) -> None:
        """Reads the file again: the daemon may have been started anew, and has another secret then."""
        try:
            found = direct.discover(self._address)
        except ConfigError as error:
            log.info("the daemon is away", reason=str(error))
            return
        anew = found.secret != self._access.secret
        self._access = found
        if Want.MAP in wants:
            self.standing.take_map(self._map())
        if Want.SESSION in wants:
            self.standing.take_credentials(self._ticket(_new_serial()))
        elif Want.TICKET in wants or anew:
            self.standing.take_credentials(self._ticket(self.standing.credentials.serial))

    async def close(self) -> None: ...

    def _map(self) -> StorageMap:
        published = _map_decoder.decode(self._access.storage_map)
        here = tuple(msgspec.structs.replace(device, address=self._address) for device in published.devices)
        return msgspec.structs.replace(published, devices=here)

    def _ticket(self, serial: int) -> Credentials:
        access = self._access
        everything = (Cap(direct.POOL_NUMBER, int(Right.data())),)
        not_after = int(time.time()) + TICKET_LIFETIME_S
        cluster = self._map().cluster
        ticket = seal_ticket(Ticket(TICKET_VERSION, cluster, "local", serial, access.key_epoch, not_after, everything))
        return Credentials(ticket, serial, {DeviceId(access.device): derive_ticket_key(access.secret, ticket)})


def _new_serial() -> int:
    """Rises with issue, as a master's counter does: microseconds of the wall clock, below 2**53 until the year 2255."""
    return time.time_ns() // 1000
