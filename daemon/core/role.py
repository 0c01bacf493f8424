"""The part a group plays on this device under one configuration. A new configuration makes a new role object, so
peer knowledge, leases and copying of an older epoch are dropped with it (R6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.core.group import Group


class Role:
    """A group without a part to play: not yet configured, or not a member."""

    __slots__ = ("group",)
    name = "idle"

    def __init__(self, group: Group) -> None:
        self.group = group

    def enter(self, now: float) -> None:
        """Called once, when the role is in place."""

    def tick(self, now: float) -> bool:
        """Retry what was lost, notice who is silent. True: tick again soon."""
        return False

    def sync_moved(self, now: float) -> None:
        """`group.synced` may have risen."""

    def written(self, now: float) -> None:
        """Records that were collected before are now in the journal file."""

    def needed(self) -> int | None:
        """The lowest position that a connected member still has to reach; None: nobody needs old records."""
        return None

    def state(self, now: float) -> str:
        return self.name
