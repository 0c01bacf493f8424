"""What a daemon remembers of one client session: key, replay window, proved address, what it owes."""

from collections import deque
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.limits import ANSWERS_KEPT
from store.session.assembly import Assembly
from store.session.egress import Chunk
from store.wire.header import ECHO
from store.wire.replay import ReplayWindow

_MASK64: Final = (1 << 64) - 1
_TOP_BIT: Final = 1 << 63
_MASK32: Final = (1 << 32) - 1
_ACK_DELAY_S: Final = 0.002  # until a request of the session says otherwise

Answer = tuple[int, int, int, int, int]  # status, order, verifier, version, object size


class Session:
    """About 1.5 KiB. No round-trip time, no window, no timer per transfer: the client has those."""

    __slots__ = (
        "ack_delay", "ack_due", "address", "answered", "answered_top", "answers", "assemblies", "background", "chunks",
        "cipher", "expires", "free_rights", "id", "packet", "pending", "queued", "secret", "serial", "stamp",
        "stamp_address", "stamp_epoch", "surplus", "ticket", "top_at", "top_clock", "unacked", "urgent", "used",
        "window",
    )

    def __init__(self, session: int, cipher: AESGCM, ticket: Any, secret: bytes, packet: int, first: int) -> None:
        """`packet` is the first packet number this daemon will use in it, `first` the one that opened it."""
        self.id = session
        self.cipher = cipher
        self.ticket = ticket
        self.serial: int = ticket.serial
        self.expires: float = ticket.not_after
        self.secret = secret
        self.packet = packet
        self.window = ReplayWindow(first)
        self.free_rights: set[int] = set()  # pool << 8 | op that the ticket allows on every name
        self.used = -1.0  # when it last spoke; below 0: nothing has opened yet
        # where its answers go; None until a stamp came back from there
        self.address: Any = None
        self.stamp = 0
        self.stamp_address: Any = None
        self.stamp_epoch = -1
        # acknowledging
        self.unacked = 0
        self.ack_due: float | None = None
        self.ack_delay = _ACK_DELAY_S
        self.top_clock = 0  # of the datagram with the highest number
        self.top_at = 0.0  # when it came
        self.answered = 0  # bit i: the READ in packet answered_top - 63 + i was answered
        self.answered_top = first
        # fragmented requests: being received, being worked on, answered
        self.assemblies: dict[int, Assembly] = {}
        self.pending: dict[int, int] = {}  # number -> bytes reserved
        self.answers: dict[int, Answer] = {}
        # answers not yet sent
        self.urgent: deque[Chunk] = deque()
        self.chunks: deque[Chunk] = deque()
        self.background: deque[Chunk] = deque()
        self.queued = 0
        self.surplus = 0  # bytes sent beyond the share of its turns

    def note_answered(self, packet: int) -> None:
        """The READ that came in `packet` is being answered now."""
        ahead = self.window.top - self.answered_top
        if ahead:
            self.answered = self.answered >> ahead if ahead < 64 else 0
            self.answered_top += ahead
        age = self.answered_top - packet
        if age < 64:
            self.answered |= 1 << 63 - age

    def pack_echo(self, buffer: bytearray, at: int, packet: int, held: float) -> None:
        """Write the ECHO of an answer to the READ in `packet`, held `held` seconds by this daemon."""
        self.note_answered(packet)
        window = self.window
        received = _MASK64 if window.run >= 64 else window.below(63) | _TOP_BIT
        held_us = int(held * 1e6)
        ECHO.pack_into(
            buffer, at, window.top & _MASK32, received, self.answered, held_us if held_us < _MASK32 else _MASK32
        )

    def keep_answer(self, number: int, answer: Answer) -> None:
        """Remember the reply to a fragmented request, so that repeating it does not mean sending it all again."""
        answers = self.answers
        if len(answers) >= ANSWERS_KEPT:
            del answers[next(iter(answers))]
        answers[number] = answer
