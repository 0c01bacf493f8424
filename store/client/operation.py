"""One request of a program, from its start to its end, across as many submissions as it takes."""

from typing import Final

from store.client.sequences import Group
from store.errors import Status
from store.ids import DeviceId, GroupId
from store.wire.header import FIRST_MUTATION

NOTHING: Final = memoryview(b"")


class Operation:
    """What is asked, where it stands, and in the end its answer. Made by callers, moved by Router and Exchange."""

    __slots__ = (
        "attempt_ends", "attempts", "context", "data", "device", "doubtful", "flags", "generation", "group", "into",
        "length", "name", "not_before", "number", "object_size", "offset", "op", "order", "payload", "refusals",
        "renewed", "scope", "sequence", "size", "started", "status", "table", "until", "verifier", "version",
    )  # fmt: skip

    def __init__(
        self,
        op: int,
        group: GroupId,
        name: bytes,
        until: float,
        *,
        offset: int = 0,
        size: int = 0,
        payload: bytes | memoryview = NOTHING,
        into: memoryview = NOTHING,
        flags: int = 0,
        scope: int = 0,
        generation: int = 0,
        context: object = None,
    ) -> None:
        """`until`: CLOCK_BOOTTIME second at which to give up. A READ fills `into`; others take `size` or `payload`."""
        self.op, self.group, self.name, self.until = op, group, name, until
        self.offset, self.size, self.payload, self.into = offset, size, payload, into
        self.flags, self.scope, self.generation = flags, scope, generation
        self.context = context  # the caller's own; nothing here looks at it
        # Routing
        self.table: Group | None = None  # the sequences of its group, once it has one of them
        self.sequence = 0
        self.device: DeviceId | None = None  # where it was submitted last, or is to go next
        self.number = 0  # of the request at that device's endpoint
        self.started = 0.0  # of the present attempt
        self.attempt_ends = until  # end of the present attempt
        self.not_before = 0.0  # of the next attempt
        self.attempts = 0
        self.refusals = 0  # BUSY in a row, for the back-off
        self.renewed = False  # a DENIED was answered with a fresh ticket once
        self.doubtful = False  # some attempt ended without an answer: it may have taken effect
        # Answer
        self.status = -1  # a Status; -1: not finished
        self.order = self.verifier = self.version = self.object_size = self.length = 0
        self.data: bytes = b""

    @property
    def mutates(self) -> bool:
        return self.op >= FIRST_MUTATION

    @property
    def outcome_unknown(self) -> bool:
        """It changed something, or not: nobody answered for it."""
        return self.doubtful and self.mutates and self.status in (
            Status.TIMEOUT, Status.UNAVAILABLE, Status.BUSY, Status.NO_SESSION, Status.STALE,
        )  # fmt: skip
