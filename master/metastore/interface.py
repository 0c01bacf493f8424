"""Where a master keeps what must survive it: a small ordered map with transactions. SQLite by default (sqlite.py).

Keys are text, values bytes. Every transaction that changes something has a revision, one higher than the last; an
item's revision is that of the transaction that wrote it. tests/master/test_metastore.py is the contract as code.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Item(NamedTuple):
    key: str
    value: bytes
    revision: int


class Compare(NamedTuple):
    """A condition: the key's item has this revision; 0: there is no such item."""

    key: str
    revision: int


class Event(NamedTuple):
    """A change of one item. `value` None: it was deleted, or its lease ended."""

    key: str
    value: bytes | None
    revision: int


class StoreFailed(Exception):
    """The store cannot be read or written any more; `str()` says why. What was asked for may or may not be durable."""


class Lagged(Exception):
    """A watcher read too slowly and missed events: read the range again and watch anew."""


class Watch(Protocol):
    """Events under a prefix in order of revision, from the moment `watch` returned."""

    async def next(self) -> tuple[Event, ...]:
        """The events of one transaction, or of one lease that ended. Waits for them. Raises Lagged."""

    def close(self) -> None: ...


class MetaStore(Protocol):
    async def get(self, key: str) -> Item | None: ...

    async def range(self, prefix: str) -> list[Item]:
        """All items whose key begins with `prefix`, in order of their keys, as of one revision."""

    async def transact(
        self, compare: Sequence[Compare], changes: Mapping[str, bytes | None], lease: int = 0
    ) -> int | None:
        """If all comparisons hold, write `changes` (None deletes) and return the revision once that is durable.

        None: a comparison failed and nothing changed. Items written under a lease vanish with it. An unknown lease is
        a failed comparison. An empty `changes` only compares, and returns the present revision.
        """

    def watch(self, prefix: str) -> Watch: ...

    async def grant(self, seconds: float) -> int:
        """A lease that ends so long after it was granted or last kept; its number is not 0."""

    async def keep(self, lease: int) -> bool:
        """Begin the lease's time anew. False: it has ended."""

    async def revoke(self, lease: int) -> None:
        """End it now, with its items."""

    async def close(self) -> None: ...
