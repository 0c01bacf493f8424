"""A blocking client's event loop, in a thread of its own: the control plane. Data never pass through it."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from store.addresses import Address
from store.client.access import Access, DirectAccess, MasterAccess
from store.client.config import ClientConfig
from store.client.routing import Want

T = TypeVar("T")

_START_S: Final = 10.0


class LinkThread:
    """Runs an Access. Made in the process that uses it: threads do not survive a fork."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control", daemon=True)
        self._thread.start()
        self.access: Access

    @classmethod
    def with_master(cls, config: ClientConfig, program: str) -> "LinkThread":
        """Raises StoreError and ConfigError when the cluster cannot be reached."""
        return cls()._opened(_open_master(config, program))

    @classmethod
    def direct(cls, address: Address) -> "LinkThread":
        """Raises ConfigError when there is no daemon without a master at that address for this user."""
        return cls()._opened(_open_direct(address))

    def run(self, work: Coroutine[Any, Any, T], deadline_s: float | None = None) -> T:
        """Runs it in the loop and waits for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(deadline_s)

    def want(self, wants: set[Want]) -> None:
        self._loop.call_soon_threadsafe(self.access.want, wants)

    def close(self) -> None:
        self.run(self._end(), _START_S)
        self._stop()

    async def _end(self) -> None:
        """Whatever was cancelled gets the turn in which it ends."""
        await self.access.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*left, return_exceptions=True)

    def _opened(self, opening: Coroutine[Any, Any, Access]) -> "LinkThread":
        try:
            self.access = self.run(opening)
        except BaseException:
            self._stop()
            raise
        return self

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _open_master(config: ClientConfig, program: str) -> Access:
    access = MasterAccess(config, program)
    try:
        await access.open()
    except BaseException:
        await access.close()
        raise
    return access


async def _open_direct(address: Address) -> Access:
    return DirectAccess(address)
