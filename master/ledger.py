"""Changes on their way to the MetaStore: what is staged in one turn of the loop is committed in one transaction.

The master decides in memory and answers only after `settled`: so nobody sees a decision that a crash could undo, and
many decisions share one fsync. If the store fails the master must end, since memory is then ahead of the disk.
"""

import asyncio
from collections.abc import Callable

from master.metastore.interface import Compare, MetaStore, StoreFailed


class Ledger:
    def __init__(self, store: MetaStore, owner: Compare, failed: Callable[[StoreFailed], None]) -> None:
        """`owner` is part of every transaction: a second master on the same store is stopped by its first write."""
        self._store, self._owner, self._failed = store, owner, failed
        self._staged: dict[str, bytes | None] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None
        self._broken: StoreFailed | None = None
        self.commits = 0

    def put(self, key: str, value: bytes) -> None:
        self._stage(key, value)

    def delete(self, key: str) -> None:
        self._stage(key, None)

    async def settled(self) -> None:
        """Until everything staged so far is durable. Raises StoreFailed."""
        if self._broken is not None:
            raise self._broken
        if self._writer is None:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        await done

    async def close(self) -> None:
        if self._broken is None:
            await self.settled()

    def _stage(self, key: str, value: bytes | None) -> None:
        self._staged[key] = value
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._staged or self._waiting:
                changes, self._staged = self._staged, {}
                waiting, self._waiting = self._waiting, []
                if changes:
                    if await self._store.transact((self._owner,), changes) is None:
                        raise StoreFailed("another master has taken over this cluster's database")
                    self.commits += 1
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
        except StoreFailed as error:
            self._broken = error
            for done in [*waiting, *self._waiting]:
                if not done.done():
                    done.set_exception(error)
            self._failed(error)
        finally:
            self._writer = None
