"""Key epochs, the devices' secrets, and the tickets made with them. Pure: wall clock and randomness are handed in.

A ticket is made in the current epoch e and ends with its lifetime. Its key leaves the ring when e + 2 begins, which is
one rotation after e ended at the earliest; a rotation takes at least as long as a ticket lives, so no ticket outlives
its key unless an administrator rotates by hand, which is meant to end tickets.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from master.core.principals import ClientRecord
from master.core.table import Cell, Changes, Table
from store.control.messages import TicketIs
from store.crypto.keys import SECRET_BYTES, Secrets, derive_ticket_key
from store.crypto.ticket import (
    SERIAL_COUNTER_BITS,
    TICKET_VERSION,
    Right,
    Ticket,
    TicketInvalid,
    open_ticket,
    seal_ticket,
)
from store.errors import Status, StoreError
from store.ids import DeviceId
from store.limits import KEY_ROTATION_S, TICKET_LIFETIME_S

Draw = Callable[[int], bytes]  # so many random bytes


class KeyState(msgspec.Struct, frozen=True):
    current: int = 1
    since: int = 0  # unix seconds; 0: not begun
    serials: int = 0  # counter of the last serial given


class Serial(msgspec.Struct, frozen=True):
    client: str
    not_after: int  # unix seconds


class Credentials:
    def __init__(self, changes: Changes, cluster: bytes, generation: int, draw: Draw) -> None:
        self._cluster, self._generation, self._draw = cluster, generation, draw
        self._state = Cell(changes, "keys", KeyState())
        self._secrets = Table(changes, "secret/", bytes)
        self._serials = Table(changes, "serial/", Serial)

    def load(self, items: list[tuple[str, bytes]]) -> None:
        self._state.load(items)
        self._secrets.load(items)
        self._serials.load(items)

    @property
    def key_epoch(self) -> int:
        return self._state.value.current

    # --- key epochs

    def is_due(self, wall: int) -> bool:
        state = self._state.value
        return state.since == 0 or wall >= state.since + KEY_ROTATION_S

    def rotate(self, wall: int, devices: Iterable[DeviceId]) -> int:
        """Begin the next epoch (the very first call: the first). Returns its number."""
        state = self._state.value
        current = state.current + 1 if state.since else state.current
        self._state.set(msgspec.structs.replace(state, current=current, since=wall))
        for key, _ in self._secrets.items():
            if int(key[:8], 16) < current - 1:
                self._secrets.delete(key)
        for device in devices:
            self.secrets(device)
        for key, serial in self._serials.items():
            if serial.not_after + TICKET_LIFETIME_S <= wall:
                self._serials.delete(key)
        return current

    def secrets(self, device: DeviceId) -> Secrets:
        """The ring of a device; secrets it does not have yet are made."""
        current = self.key_epoch
        epochs = [epoch for epoch in (current - 1, current, current + 1) if epoch > 0]
        return Secrets(current, {epoch: self._secret(epoch, device) for epoch in epochs})

    def _secret(self, epoch: int, device: DeviceId) -> bytes:
        key = f"{epoch:08x}/{device.hex()}"
        secret = self._secrets.get(key)
        if secret is None:
            secret = self._draw(SECRET_BYTES)
            self._secrets.put(key, secret)
        return secret

    # --- tickets

    def issue(self, wall: int, client: ClientRecord, renew: int, devices: Iterable[DeviceId]) -> TicketIs:
        """A ticket for daemons; `renew`: the serial to keep, or 0. Raises StoreError."""
        caps = tuple(cap for cap in client.caps if cap.rights & Right.data())
        if not caps:
            raise StoreError(Status.DENIED, f"client '{client.name}' may neither read nor write anything")
        serial = self._renewed(renew, client.name) if renew else self._next_serial()
        not_after = wall + TICKET_LIFETIME_S
        self._serials.put(f"{serial:016x}", Serial(client.name, not_after))
        ticket = Ticket(TICKET_VERSION, self._cluster, client.name, serial, self.key_epoch, not_after, caps)
        try:
            return self._with_keys(wall, ticket, seal_ticket(ticket), devices)
        except TicketInvalid as error:
            raise StoreError(Status.INVALID, f"client '{client.name}': {error}") from error

    def keys(self, wall: int, client: str, data: bytes, devices: Iterable[DeviceId]) -> TicketIs:
        """The keys of a ticket that this client was given before. Raises StoreError."""
        try:
            ticket = open_ticket(data)
        except TicketInvalid as error:
            raise StoreError(Status.INVALID, "this is no ticket") from error
        known = self._serials.get(f"{ticket.serial:016x}")
        mine = known is not None and known.client == client == ticket.client and ticket.not_after <= known.not_after
        if not mine or ticket.cluster != self._cluster:
            raise StoreError(Status.DENIED, "this ticket was not given to this client")
        if ticket.not_after <= wall or not self.key_epoch - 1 <= ticket.key_epoch <= self.key_epoch:
            raise StoreError(Status.EXPIRED, "this ticket has expired: ask for another")
        return self._with_keys(wall, ticket, data, devices)

    def _with_keys(self, wall: int, ticket: Ticket, data: bytes, devices: Iterable[DeviceId]) -> TicketIs:
        return TicketIs(
            ticket=data,
            keys={device: derive_ticket_key(self._secret(ticket.key_epoch, device), data) for device in devices},
            serial=ticket.serial,
            key_epoch=ticket.key_epoch,
            not_after=ticket.not_after,
            renew_in=max(0.0, (ticket.not_after - wall) / 2),
        )

    def _renewed(self, serial: int, client: str) -> int:
        known = self._serials.get(f"{serial:016x}")
        if known is None or known.client != client:
            raise StoreError(Status.NO_SESSION, "that serial is not yours, or too old to renew: ask for a new one")
        return serial

    def _next_serial(self) -> int:
        state = self._state.value
        counter = state.serials + 1
        self._state.set(msgspec.structs.replace(state, serials=counter))
        return self._generation << _SHIFT | counter


_SHIFT: Final = SERIAL_COUNTER_BITS
