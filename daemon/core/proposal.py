"""A proposal to the master: the same compare-and-set until a new configuration ends it (R7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from store.control.arbiter import Cas
from store.ids import Who
from store.placement.config import GroupConfig

if TYPE_CHECKING:
    from daemon.core.group import Group

SHRINK: Final = "shrink"
PROMOTE: Final = "promote"
GROW: Final = "grow"
TOUCH: Final = "touch"
REVIVE: Final = "revive"


class Proposal:
    """At most one per group; belongs to the configuration that it expects."""

    __slots__ = ("cas", "group", "saved", "sent_at", "since")

    def __init__(self, now: float, group: Group, kind: str, in_sync: tuple[Who, ...], primary: Who, continuity: int):
        config = group.adopted_config()
        epoch = max(config.epoch, group.promised - 1) + 1
        new = GroupConfig(config.generation, epoch, config.members, primary, in_sync, continuity)
        identity = group.identity
        self.cas = Cas(group.id, identity.present(), kind, config.order, new, identity.fields.history)
        self.group = group
        self.since = now
        self.sent_at = now
        self.saved = True  # False while what it depends on is not yet on the disk

    def send(self, now: float) -> None:
        """Send it, unless it has been dropped since."""
        if self.group.proposal is self:
            self.saved = True
            self.sent_at = now
            self.group.outbox.tell(self.cas)

    def tick(self, now: float) -> None:
        """Repeat it; after a while drop one that the situation may have overtaken. Growth only a new epoch ends."""
        limits = self.group.limits
        if not self.saved or now - self.sent_at <= limits.cas_retry:
            return
        if self.cas.kind not in (GROW, TOUCH) and now - self.since > 3 * limits.lease:
            self.group.proposal = None
        else:
            self.send(now)
