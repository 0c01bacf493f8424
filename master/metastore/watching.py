"""Delivery of events to watchers inside one process; for stores that see every transaction themselves."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from master.metastore.interface import Event, Lagged

BACKLOG_MAX: Final = 1024  # batches a watcher may leave unread


class LocalWatch:
    def __init__(self, prefix: str, watchers: "Watchers") -> None:
        self._prefix, self._watchers = prefix, watchers
        self._batches: deque[tuple[Event, ...]] = deque()
        self._ready = asyncio.Event()
        self._lagged = False

    def offer(self, events: Sequence[Event]) -> None:
        mine = tuple(event for event in events if event.key.startswith(self._prefix))
        if not mine:
            return
        if len(self._batches) >= BACKLOG_MAX:
            self._lagged = True
        else:
            self._batches.append(mine)
        self._ready.set()

    async def next(self) -> tuple[Event, ...]:
        while not self._batches:
            if self._lagged:
                raise Lagged
            self._ready.clear()
            await self._ready.wait()
        return self._batches.popleft()

    def close(self) -> None:
        self._watchers.forget(self)


class Watchers:
    def __init__(self) -> None:
        self._all: list[LocalWatch] = []

    def add(self, prefix: str) -> LocalWatch:
        watch = LocalWatch(prefix, self)
        self._all.append(watch)
        return watch

    def forget(self, watch: LocalWatch) -> None:
        if watch in self._all:
            self._all.remove(watch)

    def tell(self, events: Sequence[Event]) -> None:
        for watch in self._all:
            watch.offer(events)
