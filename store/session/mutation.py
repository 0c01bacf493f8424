"""A request that ends with one REPLY, and the datagrams it travels in."""

from typing import Final

from store.session.loss import Burst

_NEVER: Final = float("inf")


class Mutation:
    """A request in progress, and how far it is sent."""

    __slots__ = (
        "bit", "burst", "deadline", "due", "ended", "flags", "head", "number", "payload", "pokes", "resend", "sent",
        "sent_at", "started", "total", "unacked",
    )

    def __init__(
        self, number: int, head: bytearray, payload: bytes | memoryview, flags: int, deadline: float
    ) -> None:
        self.number = number
        self.head = head  # REQUEST and name
        self.payload = payload
        self.total = len(head) + len(payload)
        self.flags = flags
        self.deadline = deadline
        self.ended = False
        self.started = False  # in fragments, and counted in the write credit
        self.sent = 0  # bytes sent at least once
        self.resend: list[tuple[int, int]] = []  # lost: start and end
        self.unacked = 0  # datagrams in flight
        self.sent_at = -1.0  # when it was first sent as a whole
        self.due = _NEVER  # when to ask what became of it
        self.pokes = 0
        self.burst: Flight | None = None  # of a request in one datagram: where it went
        self.bit = 0

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self.resend) or self.sent < self.total

    def piece(self, start: int, end: int, buffer: bytearray, at: int) -> None:
        """Copy bytes [start, end) of the message to `buffer` at `at`."""
        head = self.head
        split = len(head)
        if start < split:
            stop = min(end, split)
            buffer[at : at + stop - start] = head[start:stop]
            at += stop - start
            start = stop
        if start < end:
            buffer[at : at + end - start] = self.payload[start - split : end - split]


class Flight(Burst):
    """Datagrams of requests sent together: for each its request and which bytes of it."""

    __slots__ = ("cargo",)

    def __init__(self, packet: int, size: int, cargo: list[tuple[Mutation, int, int]]) -> None:
        super().__init__(packet, len(cargo), size)
        self.cargo = cargo
