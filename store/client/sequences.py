"""Sequence numbers of one session's mutations, group by group (replication rule R33).

A request keeps its sequence through all its retries. Its *floor* is the lowest sequence that this client may still
repeat, so when a request is given up the next one raises the floor and the abandoned one can no longer take effect.
"""

from store.ids import GroupId
from store.limits import SEQUENCE_WINDOW


class Group:
    """One group's row in the session: sequences from 1 on."""

    __slots__ = ("acknowledged", "closed", "live", "next", "serial")

    def __init__(self, serial: int) -> None:
        self.serial = serial  # of the session
        self.next = 1
        self.live: dict[int, int] = {}  # sequence -> its floor; in rising order, as taken
        self.closed = False  # the group has forgotten the session: take another serial
        self.acknowledged = False  # some mutation was answered: the group knows the session

    def take(self) -> int:
        """The next sequence; 0 when the window is full, until the oldest request has ended."""
        sequence = self.next
        floor = next(iter(self.live), sequence)
        if sequence - floor >= SEQUENCE_WINDOW:
            return 0
        self.live[sequence] = floor
        self.next = sequence + 1
        return sequence

    def floor(self, sequence: int) -> int:
        """The floor that travels with this sequence, the same in every retry."""
        return self.live[sequence]

    def release(self, sequence: int) -> None:
        """The request has ended, one way or another: it will not be repeated."""
        self.live.pop(sequence, None)


class Session:
    """A client's place in the groups' duplicate tables; `serial` comes with the ticket."""

    __slots__ = ("_groups", "serial")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self._groups: dict[GroupId, Group] = {}

    def group(self, group: GroupId) -> Group:
        row = self._groups.get(group)
        if row is None:
            row = self._groups[group] = Group(self.serial)
        return row
