"""A daemon's table of client sessions: opened by a ticket whose key a datagram proves, forgotten when too many."""

from collections.abc import Iterator
from typing import Final, Protocol

from store.crypto.keys import derive_session_key, derive_ticket_key
from store.crypto.ticket import Ticket, TicketInvalid, open_ticket
from store.limits import TICKETS_CACHED, TRANSPORT_SESSIONS
from store.session.peer import Session
from store.wire.seal import cipher

_EVICTED: Final = TRANSPORT_SESSIONS // 8  # at a time


class Keyring(Protocol):
    """The daemon's secrets by key epoch."""

    def secret(self, key_epoch: int) -> bytes | None:
        """None: a key epoch the daemon does not have, or no longer."""


class Sessions:
    """All sessions by their id."""

    __slots__ = ("_first_packet", "_keyring", "_met", "_tickets", "known")

    def __init__(self, keyring: Keyring, first_packet: int) -> None:
        self.known: dict[int, Session] = {}
        self._keyring = keyring
        self._first_packet = first_packet  # above every number that a forgotten session used
        self._tickets: dict[bytes, tuple[Ticket, bytes, bytes]] = {}  # proved: ticket, its key, the secret behind it
        self._met: tuple[bytes, tuple[Ticket, bytes, bytes]] | None = None

    def meet(self, identity: int, ticket: bytes, packet: int) -> Session | None:
        """A session for the first datagram of an unknown one; `admit` it once the datagram has opened.

        None: the ticket is none, or of a key epoch that this daemon does not have.
        """
        found = self._tickets.get(ticket) or self._open(ticket)
        if found is None:
            return None
        self._met = ticket, found
        opened, key, secret = found
        return Session(
            identity, cipher(derive_session_key(key, identity)), opened, secret, self._first_packet, packet
        )

    def _open(self, data: bytes) -> tuple[Ticket, bytes, bytes] | None:
        try:
            ticket = open_ticket(data)
        except TicketInvalid:
            return None
        secret = self._keyring.secret(ticket.key_epoch)
        if secret is None:
            return None
        return ticket, derive_ticket_key(secret, data), secret

    def admit(self, session: Session) -> None:
        """The datagram that `meet` was called for has proved the ticket's key."""
        self.known[session.id] = session
        if self._met is not None:
            data, found = self._met
            if len(self._tickets) >= TICKETS_CACHED:
                del self._tickets[next(iter(self._tickets))]
            self._tickets[data] = found

    def surplus(self) -> Iterator[Session]:
        """Forget the sessions longest unused when there are too many; their clients' tickets bring them back."""
        if len(self.known) < TRANSPORT_SESSIONS:
            return
        for session in sorted(self.known.values(), key=lambda session: session.used)[:_EVICTED]:
            self._first_packet = max(self._first_packet, session.packet)
            del self.known[session.id]
            yield session
