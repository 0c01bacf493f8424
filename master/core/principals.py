"""Who may do what: clients with their capabilities, and join tickets that were made and not used. Pure."""

import msgspec

from master.core.table import Changes, Table
from store.control.messages import ClientEntry
from store.crypto.identity import DAEMON, Role, client_role
from store.crypto.join_ticket import secret_hash
from store.crypto.ticket import ANY_POOL, Cap, Right
from store.errors import ConfigError, Status, StoreError
from store.limits import CAPS_MAX, CLIENTS_MAX, JOIN_TICKET_LIFETIME_MAX_S, JOIN_TICKETS_MAX

ADMIN = "admin"  # the client that a new cluster begins with
EVERYTHING = (Cap(ANY_POOL, int(Right.data() | Right.ADMIN)),)


class ClientRecord(msgspec.Struct, frozen=True):
    name: str
    caps: tuple[Cap, ...]
    created: int  # unix seconds
    revoked: bool = False

    def allows(self, right: Right, pool: int = ANY_POOL, name: bytes = b"") -> bool:
        """Whether some capability gives this right on this name of this pool."""
        return any(
            cap.rights & right and cap.pool in (ANY_POOL, pool) and name.startswith(cap.prefix) for cap in self.caps
        )


class JoinRecord(msgspec.Struct, frozen=True):
    role: str  # daemon or client
    name: str
    caps: tuple[Cap, ...]
    not_after: int  # unix seconds


class Principals:
    def __init__(self, changes: Changes) -> None:
        self.clients = Table(changes, "client/", ClientRecord)
        self.joins = Table(changes, "join/", JoinRecord)

    def get(self, name: str) -> ClientRecord:
        """Raises StoreError DENIED for a name that is unknown or revoked."""
        record = self.clients.get(name)
        if record is None:
            text = f"client '{name}' is not known here, though its certificate is good: let an administrator create it"
            raise StoreError(Status.DENIED, text)
        if record.revoked:
            raise StoreError(Status.DENIED, f"client '{name}' has been revoked")
        return record

    def create(self, wall: int, name: str, caps: tuple[Cap, ...]) -> ClientRecord:
        """New, or known with other capabilities and no longer revoked. Raises StoreError."""
        _role("client", name)
        if len(caps) > CAPS_MAX:
            raise StoreError(Status.INVALID, f"a client has at most {CAPS_MAX} capabilities")
        if not caps or any(not cap.rights for cap in caps):
            raise StoreError(Status.INVALID, "a client without rights could do nothing: give it a capability")
        known = self.clients.get(name)
        if known is None and len(self.clients) >= CLIENTS_MAX:
            raise StoreError(Status.NO_SPACE, f"this cluster has {CLIENTS_MAX} clients already")
        record = ClientRecord(name, caps, known.created if known is not None else wall)
        self.clients.put(name, record)
        return record

    def revoke(self, name: str) -> None:
        """Raises StoreError."""
        record = self.clients.get(name)
        if record is None:
            raise StoreError(Status.NOT_FOUND, f"there is no client '{name}'")
        if name == ADMIN:
            raise StoreError(Status.DENIED, f"'{ADMIN}' cannot be revoked: nobody could undo it")
        self.clients.put(name, msgspec.structs.replace(record, revoked=True))

    def entries(self, connected: dict[str, int]) -> tuple[ClientEntry, ...]:
        return tuple(
            ClientEntry(name=each.name, caps=each.caps, connected=connected.get(each.name, 0), revoked=each.revoked)
            for each in self.clients
        )

    def expect(self, wall: int, secret: bytes, record: JoinRecord) -> None:
        """A join ticket was made. Raises StoreError."""
        _role(record.role, record.name)
        if not 0 < record.not_after - wall <= JOIN_TICKET_LIFETIME_MAX_S:
            raise StoreError(Status.INVALID, "a join ticket may live for at most 30 days")
        for key, old in self.joins.items():
            if old.not_after <= wall:
                self.joins.delete(key)
        if len(self.joins) >= JOIN_TICKETS_MAX:
            raise StoreError(Status.NO_SPACE, f"{JOIN_TICKETS_MAX} join tickets wait to be used already")
        self.joins.put(secret_hash(secret).hex(), record)

    def use(self, wall: int, secret: bytes) -> tuple[Role, JoinRecord]:
        """A join ticket is used up. Raises StoreError DENIED."""
        key = secret_hash(secret).hex()
        record = self.joins.get(key)
        if record is None:
            raise StoreError(Status.DENIED, "this join ticket is not known here, or has been used: make another")
        self.joins.delete(key)
        if record.not_after <= wall:
            raise StoreError(Status.DENIED, "this join ticket has expired: make another")
        return _role(record.role, record.name), record


def _role(kind: str, name: str) -> Role:
    if kind == "daemon" and not name:
        return DAEMON
    if kind != "client":
        raise StoreError(Status.INVALID, f"a ticket can be for a daemon (without name) or a client, not for '{kind}'")
    try:
        return client_role(name)
    except ConfigError as error:
        raise StoreError(Status.INVALID, str(error)) from error
