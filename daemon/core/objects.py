"""The seam between the group core and the bytes: what the core asks of the object store, called synchronously.

The core calls `apply` for committed records only, in log order, and only for records that are in the journal file
(`entry.where` >= 0). A call must not block on a sync. What the store keeps of a group has three layers:

- the *base*: on disk, exactly the state after the log position of the last completed checkpoint;
- the *frozen* state of a checkpoint under way;
- the *applied* state, which reads see.

A store may move applied bytes to its data file early (records that are committed and synced), but the base must stay
exact: after a restart, and after `rewind`, nothing applied behind the base may be visible until it is applied again.
A store that cannot guarantee that for a group answers None to `rewind` and saves the group as not whole at start.

A group that is being copied has no base: what has arrived may go to the disk at once, since the group is marked as not
whole there and the next attempt begins with `begin_copy` again. Its base comes with the checkpoint after the copy.
"""

from typing import Protocol

from daemon.core.record import Entry
from store.errors import Status
from store.ids import GroupId


class Piece(Protocol):
    """One step of an inventory (R25): an object, or later a part of one."""

    @property
    def key(self) -> bytes: ...  # the object's name

    @property
    def data(self) -> bytes: ...  # content and version, in the store's own encoding

    @property
    def cursor(self) -> bytes: ...  # where the next step begins


class Objects(Protocol):
    """State of all groups of a device; see the module for the promises."""

    def apply(self, entry: Entry) -> tuple[Status, int]:
        """Give a committed record its effect; return its status and the object's size after it.

        The outcome depends on the log alone, so every member answers the same. An object whose version is not below
        the record's position is left alone (an inventory brought a later copy); the status is then OK.
        FLUSH and FENCE have no effect on objects and are not passed in.
        """

    def freeze(self) -> None:
        """A checkpoint begins: it holds what is applied now, in every group, and nothing that is applied later."""

    def rewind(self, group: GroupId) -> bytes | None:
        """Go back to the base of the group (R24) and return the tables stored with it; None: this is not possible."""

    def copy_next(self, group: GroupId, cursor: bytes) -> Piece | None:
        """The first object of the applied state behind `cursor` (b"" = from the start); None: there is none."""

    def begin_copy(self, group: GroupId) -> None:
        """An inventory begins: what the group holds is void unless it arrives again. Not during a checkpoint of it."""

    def install(self, group: GroupId, piece: bytes) -> None:
        """Take the `data` of a Piece from the primary. It replaces what is held, whichever version is higher (R26)."""

    def end_copy(self, group: GroupId) -> None:
        """Every object has arrived: what did not is removed."""
