"""The daemon's side of the control channel: register, heartbeat, carry the core's proposals, take map and secrets."""

import asyncio
import ssl
from typing import Protocol

import structlog

from store.addresses import Address
from store.control.arbiter import FromMaster, ToMaster
from store.control.channel import Connection, Quiet
from store.control.link import MasterLink
from store.control.messages import (
    Arbitrate,
    Decided,
    DeviceRegistered,
    Heartbeat,
    HeartbeatOk,
    MapIs,
    Message,
    PoolUsage,
    RegisterDevice,
    SecretsAre,
)
from store.crypto.keys import Secrets
from store.errors import StoreError
from store.limits import HEARTBEAT_S, MASTER_OUTBOX_MAX
from store.placement.storage_map import StorageMap

log = structlog.get_logger()


class Owner(Protocol):
    """What the link needs of the daemon."""

    def registration(self) -> RegisterDevice: ...
    def usage(self) -> tuple[int, int, tuple[PoolUsage, ...]]: ...  # used, free, per pool
    def registered(self, answer: DeviceRegistered) -> None: ...
    def decided(self, messages: tuple[FromMaster, ...]) -> None: ...
    def new_map(self, storage_map: StorageMap) -> None: ...
    def new_secrets(self, secrets: Secrets) -> None: ...


class ControlLink(Quiet):
    """Keeps the daemon known to its master. While the master is away everything else goes on."""

    def __init__(self, masters: list[Address], context: ssl.SSLContext, owner: Owner) -> None:
        self._owner = owner
        self._link = MasterLink(masters, context, self, self._greet)
        self._outbox: list[ToMaster] = []
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._link.start()
        self._beating = asyncio.get_running_loop().create_task(self._beat())

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def last_error(self) -> StoreError | None:
        return self._link.last_error

    async def wait_connected(self, deadline_s: float) -> None:
        await self._link.wait_connected(deadline_s)

    def tell(self, messages: list[ToMaster]) -> None:
        """Send proposals in one frame a turn. Dropped while there is no master: the core repeats what matters."""
        if not self._link.connected or len(self._outbox) >= MASTER_OUTBOX_MAX:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox += messages

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        self._link.push(Arbitrate(tuple(messages)))

    async def _greet(self, connection: Connection) -> None:
        answer = await connection.call(self._owner.registration(), DeviceRegistered)
        self._owner.registered(answer)

    async def push(self, connection: Connection, message: Message) -> None:
        if isinstance(message, Decided):
            self._owner.decided(message.messages)
        elif isinstance(message, MapIs):
            self._owner.new_map(message.map)
        elif isinstance(message, SecretsAre):
            self._owner.new_secrets(message.secrets)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._link.connected:
                used, free, pools = self._owner.usage()
                try:
                    await self._link.call(Heartbeat(used=used, free=free, pools=pools), HeartbeatOk)
                except StoreError as error:
                    log.debug("heartbeat failed", reason=str(error))

    async def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        await self._link.close()
