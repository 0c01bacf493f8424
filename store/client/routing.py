"""Which device a request goes to, what an answer means, when to try again and when to give up. Pure.

    start   -> a sequence (mutations) and a device; or "not yet", and `not_before` says when to ask again
    settle  -> the answer was final, or `not_before` says when the next attempt begins

| answer | then |
|---|---|
| OK, and refusals that no retry changes | final |
| REDIRECT | the named primary at once; when it is silent, or it was named before, after a pause the next member |
| no answer (TIMEOUT) | the outcome is in doubt; next member; ask for a map |
| BUSY | the device's own pause, longer each time |
| UNKNOWN_GROUP | pause, next member, ask for a map |
| EXPIRED, or DENIED for the first time | ask for a ticket of the same serial, then again |
| NO_SESSION, STALE | ask for a new serial; again under it if that is safe, else final (see `_refused_session`) |

Pauses are spread by a hash of session, sequence and attempt, so clients that fail together do not come back together.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from store.client.operation import Operation
from store.client.sequences import Session
from store.errors import Status
from store.ids import DeviceId, GroupId
from store.limits import (
    CLIENT_ATTEMPT_RATE,
    CLIENT_ATTEMPT_S,
    CLIENT_ATTEMPTS_MAX,
    CLIENT_BACKOFF_MAX_S,
    CLIENT_BACKOFF_MIN_S,
    CLIENT_BUSY_MAX_S,
)
from store.placement.storage_map import StorageMap

SUSPECT_S: Final = 2.0  # how long a silent device is passed over
WINDOW_FULL_S: Final = 0.001  # until the next look at a full sequence window
_DEVICE_BYTES: Final = 16


class Want(Enum):
    """What only the master can give; the shell asks for it and takes it out of `Router.wants`."""

    MAP = 1  # a newer storage map
    TICKET = 2  # the same serial, later expiry, keys of all devices
    SESSION = 3  # a new serial


class Located:
    """What is known of one group: the map's row, or a later redirect."""

    __slots__ = ("members", "order", "primary")

    def __init__(self, order: int, primary: DeviceId | None, members: tuple[DeviceId, ...]) -> None:
        self.order, self.primary, self.members = order, primary, members


class Router:
    """The routes and the session of one client, shared by all its exchanges."""

    def __init__(self, storage_map: StorageMap, serial: int) -> None:
        self.storage_map = storage_map
        self.session = Session(serial)
        self.wants: set[Want] = set()
        self._located: dict[GroupId, Located] = {}
        self._suspects: dict[DeviceId, float] = {}  # device -> until when it is passed over
        self._answers: dict[int, Callable[[float, Operation, bytes], bool]] = {
            Status.REDIRECT: self._redirected,
            Status.BUSY: self._busy,
            Status.TIMEOUT: self._unanswered,
            Status.UNKNOWN_GROUP: self._unknown_group,
            Status.EXPIRED: self._expired,
            Status.DENIED: self._denied,
            Status.NO_SESSION: self._refused_session,
            Status.STALE: self._refused_session,
        }

    def adopt(self, storage_map: StorageMap) -> None:
        """Takes a map that is newer than the present one; what was learnt from redirects since then stays."""
        if storage_map.order <= self.storage_map.order:
            return
        self.storage_map = storage_map
        learnt, self._located = self._located, {}
        for group, before in learnt.items():
            route = storage_map.route(group)
            if route is not None and before.order > route.order_token:
                self._located[group] = before

    def reopen(self, serial: int) -> None:
        """A new serial: requests that begin from now on belong to it; older ones end under their own."""
        if serial != self.session.serial:
            self.session = Session(serial)

    def start(self, now: float, operation: Operation) -> bool:
        """Readies the next attempt: device, sequence, end of the attempt. False: not before `operation.not_before`."""
        if operation.mutates and operation.sequence == 0 and not self._take_sequence(now, operation):
            return False
        if operation.device is None:
            operation.device = self._first_choice(now, operation.group)
            if operation.device is None:
                self.wants.add(Want.MAP)
                operation.not_before = now + CLIENT_BACKOFF_MAX_S
                return False
        size = len(operation.payload) + len(operation.into)
        operation.attempts += 1
        operation.started = now
        operation.attempt_ends = min(operation.until, now + CLIENT_ATTEMPT_S + size / CLIENT_ATTEMPT_RATE)
        return True

    def settle(self, now: float, operation: Operation, status: int, data: bytes) -> bool:
        """True: finished, `operation.status` stands. `data`: of a REDIRECT, the primary's id. `length`: of BUSY, ms."""
        handler = self._answers.get(status)
        if handler is None:
            return self._finish(operation, status)
        if operation.attempts >= CLIENT_ATTEMPTS_MAX:
            return self._finish(operation, self._last_word(operation, status))
        operation.status = status
        if handler(now, operation, data):
            return True
        if operation.not_before >= operation.until:
            return self._finish(operation, self._last_word(operation, status))
        operation.status = -1
        return False

    def suspect(self, now: float, device: DeviceId) -> None:
        """It owes answers and has sent nothing: for a while others are asked first."""
        self._suspects[device] = now + SUSPECT_S

    def give_up(self, now: float, operation: Operation) -> None:
        """The time is over while no attempt was under way."""
        self._finish(operation, Status.TIMEOUT if operation.doubtful else Status.UNAVAILABLE)

    # --- sequences and devices ---------------------------------------------------------------------------------------

    def _take_sequence(self, now: float, operation: Operation) -> bool:
        table = self.session.group(operation.group)
        if table.closed:
            self.wants.add(Want.SESSION)
            operation.not_before = now + CLIENT_BACKOFF_MIN_S
            return False
        operation.sequence = table.take()
        operation.table = table
        if operation.sequence == 0:
            operation.not_before = now + WINDOW_FULL_S
            return False
        return True

    def _where(self, group: GroupId) -> Located | None:
        located = self._located.get(group)
        if located is None:
            route = self.storage_map.route(group)
            if route is None or not route.members:
                return None
            members = tuple(device.id for device in route.members)
            primary = None if route.primary is None else route.primary.id
            located = self._located[group] = Located(route.order_token, primary, members)
        return located

    def _first_choice(self, now: float, group: GroupId) -> DeviceId | None:
        located = self._where(group)
        if located is None:
            return None
        if located.primary is not None and not self._is_suspect(now, located.primary):
            return located.primary
        return self._next_member(now, located, located.primary)

    def _next_member(self, now: float, located: Located, after: DeviceId | None) -> DeviceId:
        """The member that follows, in the map's order, one that is not suspect if there is any."""
        members = located.members
        start = members.index(after) + 1 if after in members else 0
        turns = [members[(start + turn) % len(members)] for turn in range(len(members))]
        return next((device for device in turns if not self._is_suspect(now, device)), turns[0])

    def _is_suspect(self, now: float, device: DeviceId) -> bool:
        until = self._suspects.get(device)
        if until is None:
            return False
        if until <= now:
            del self._suspects[device]
            return False
        return True

    # --- answers -----------------------------------------------------------------------------------------------------

    def _finish(self, operation: Operation, status: int) -> bool:
        operation.status = status
        table = operation.table
        if table is not None:
            table.release(operation.sequence)
            if status == Status.OK:
                table.acknowledged = True
        return True

    @staticmethod
    def _last_word(operation: Operation, status: int) -> int:
        """What an operation that ran out of time or attempts is told."""
        if operation.doubtful:
            return Status.TIMEOUT
        return status if status in (Status.BUSY, Status.EXPIRED, Status.DENIED) else Status.UNAVAILABLE

    def _redirected(self, now: float, operation: Operation, data: bytes) -> bool:
        operation.refusals += 1
        located = self._where(operation.group)
        hint = DeviceId(bytes(data[:_DEVICE_BYTES])) if len(data) >= _DEVICE_BYTES else None
        if located is None:
            return self._pause(now, operation)
        if hint is not None and operation.order >= located.order:
            located.order, located.primary = operation.order, hint
        self._pause(now, operation)
        if hint is None or hint == operation.device or self._is_suspect(now, hint):
            operation.device = self._next_member(now, located, operation.device)
            return False
        if operation.refusals == 1:
            operation.not_before = now
        operation.device = hint
        return False

    def _busy(self, now: float, operation: Operation, data: bytes) -> bool:
        operation.refusals += 1
        asked = max(operation.length / 1000, CLIENT_BACKOFF_MIN_S)
        grown = min(asked * 2 ** min(operation.refusals - 1, 10), max(asked, CLIENT_BUSY_MAX_S))
        operation.not_before = now + grown * (1 + self._spread(operation) / 2)
        return False

    def _unanswered(self, now: float, operation: Operation, data: bytes) -> bool:
        operation.doubtful = True
        self.wants.add(Want.MAP)
        located = self._where(operation.group)
        operation.not_before = now
        if located is not None:
            operation.device = self._next_member(now, located, operation.device)
        return False

    def _unknown_group(self, now: float, operation: Operation, data: bytes) -> bool:
        operation.refusals += 1
        self.wants.add(Want.MAP)
        located = self._where(operation.group)
        if located is not None:
            operation.device = self._next_member(now, located, operation.device)
        return self._pause(now, operation)

    def _expired(self, now: float, operation: Operation, data: bytes) -> bool:
        operation.refusals += 1
        self.wants.add(Want.TICKET)
        return self._pause(now, operation)

    def _denied(self, now: float, operation: Operation, data: bytes) -> bool:
        """The ticket may be older than the pool: once again with a fresh one, then believe it."""
        if operation.renewed:
            return self._finish(operation, Status.DENIED)
        operation.renewed = True
        return self._expired(now, operation, data)

    def _refused_session(self, now: float, operation: Operation, data: bytes) -> bool:
        """The duplicate table has forgotten the session.

        Under a new serial the request would be another one: had the first taken effect, and then somebody else's
        write, it would undo that. It is repeated only where this cannot be: for the holder of an image lock, who is
        the only writer; and where nothing of this session was ever answered by the group, since a session that a
        request has opened is not forgotten within the life of that request (it is idle for SESSION_IDLE_S first).
        """
        table = operation.table
        if table is None:
            return self._finish(operation, operation.status)
        table.closed = True
        if table.serial == self.session.serial:
            self.wants.add(Want.SESSION)
        if operation.scope == 0 and table.acknowledged:
            operation.doubtful = True
            return self._finish(operation, operation.status)
        table.release(operation.sequence)
        operation.table, operation.sequence = None, 0
        operation.not_before = now + CLIENT_BACKOFF_MIN_S
        return False

    def _pause(self, now: float, operation: Operation) -> bool:
        pause = min(CLIENT_BACKOFF_MIN_S * 2 ** min(operation.refusals, 10), CLIENT_BACKOFF_MAX_S)
        operation.not_before = now + pause * (1 + self._spread(operation) / 2)
        return False

    def _spread(self, operation: Operation) -> float:
        """A number in [0, 1) that differs between clients, requests and attempts, and is the same in every replay."""
        mixed = self.session.serial * 0x9E3779B97F4A7C15 + operation.sequence * 0xC2B2AE3D27D4EB4F
        mixed = (mixed + operation.attempts * 0x165667B19E3779F9 + operation.offset) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ mixed >> 31) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        return (mixed >> 40) / (1 << 24)
