"""When a daemon acknowledges: after 16 datagrams, at the first sight of a gap, or when the client's patience ends."""

from store.limits import ACK_EVERY
from store.session.peer import Session


class Acks:
    """The sessions that are owed an ACK."""

    __slots__ = ("_now", "_owing")

    def __init__(self) -> None:
        self._owing: dict[Session, None] = {}  # with a time set
        self._now: dict[Session, None] = {}  # with the next transmission

    def owe(self, now: float, session: Session, delay: float, at_once: bool) -> None:
        """A datagram came that an ACK must tell of, within `delay` seconds or at once."""
        session.unacked += 1
        if at_once or session.unacked >= ACK_EVERY:
            self._now[session] = None
        elif session.ack_due is None:
            session.ack_delay = delay
            session.ack_due = now + delay
            self._owing[session] = None

    def answered(self, session: Session) -> None:
        """A REPLY tells of one of them."""
        if session.unacked:
            session.unacked -= 1
            if not session.unacked and session.ack_due is not None:
                session.ack_due = None
                del self._owing[session]

    def take(self, now: float) -> list[Session]:
        """The sessions to send an ACK now."""
        if self._owing:
            for session in self._owing:
                if session.ack_due is not None and session.ack_due <= now:
                    self._now[session] = None
        sessions = list(self._now)
        self._now.clear()
        for session in sessions:
            session.unacked = 0
            if session.ack_due is not None:
                session.ack_due = None
                del self._owing[session]
        return sessions

    def waiting(self) -> bool:
        return bool(self._owing or self._now)

    def deadline(self) -> float | None:
        """When the first becomes due."""
        return min((session.ack_due for session in self._owing if session.ack_due is not None), default=None)

    def forget(self, session: Session) -> None:
        self._owing.pop(session, None)
        self._now.pop(session, None)
