"""Who changed what and when: a bounded list of the newest entries. Pure."""

from master.core.table import Changes, Table
from store.control.messages import AuditEntry
from store.limits import AUDIT_KEPT


class Audit:
    def __init__(self, changes: Changes) -> None:
        self.table = Table(changes, "audit/", AuditEntry)
        self._last = 0

    def loaded(self) -> None:
        """After the table was loaded."""
        self._last = max((entry.number for entry in self.table), default=0)

    def note(self, wall: int, who: str, what: str, subject: str) -> None:
        self._last += 1
        self.table.put(_key(self._last), AuditEntry(self._last, wall, who, what, subject))
        self.table.delete(_key(self._last - AUDIT_KEPT))

    def tail(self, limit: int) -> tuple[AuditEntry, ...]:
        """At most `limit` of the newest entries, newest last."""
        first = max(1, self._last - max(0, limit) + 1)
        entries = (self.table.get(_key(number)) for number in range(first, self._last + 1))
        return tuple(entry for entry in entries if entry is not None)


def _key(number: int) -> str:
    return f"{number:016x}"
