"""Names of a group in order: the index and what was changed since, as one list."""

from typing import NamedTuple

from daemon.storage.index import Index
from daemon.storage.limits import LIST_MAX
from daemon.storage.overlay import CLEAN
from daemon.storage.table import ObjectTable


class Listed(NamedTuple):
    name: bytes
    size: int
    version: int


class Listing:
    def __init__(self, table: ObjectTable, index: Index) -> None:
        self._table, self._index = table, index

    def rows(self, group: int, prefix: bytes, after: bytes, limit: int) -> list[Listed]:
        """At most `limit` objects in name order whose names begin with `prefix` and lie behind `after`.

        Raises index.DamagedRow.
        """
        limit = min(limit, LIST_MAX)
        changed = self._changed(group, prefix, after)
        rows: list[Listed] = []
        position = after
        while len(rows) < limit:
            stored = self._index.names(group, prefix, position, limit)
            end = stored[-1].name if len(stored) == limit else None  # what lies behind is not known yet
            merged = {row.name: Listed(row.name, row.size, row.version) for row in stored}
            for name in [name for name in changed if end is None or name <= end]:
                listed = changed.pop(name)
                merged.pop(name, None)
                if listed is not None:
                    merged[name] = listed
            rows += [merged[name] for name in sorted(merged)]
            if end is None:
                break
            position = end
        return rows[:limit]

    def _changed(self, group: int, prefix: bytes, after: bytes) -> dict[bytes, Listed | None]:
        """Objects that may differ from their rows; None: gone."""
        shelf = self._table.shelves.get(group)
        if shelf is None:
            return {}
        return {
            name: Listed(name, obj.size, obj.version) if obj.exists else None
            for name, obj in shelf.objects.items()
            if obj.generation != CLEAN and name > after and name.startswith(prefix)
        }
