"""Reads of one endpoint: cuts them into bursts, asks as windows and pacing allow, takes the answers."""

from collections import deque
from typing import Final

from store.errors import Status
from store.limits import BURST_MAX, BUSY_BURSTS_MAX, KIB, MIB
from store.session.ask_path import Ask, AskPath, post_read
from store.session.completion import Completion
from store.session.credit import Credit
from store.session.mtu import PathMtu
from store.session.outbox import Outbox
from store.session.pacing import burst_size
from store.session.read import IP_UDP, Parts, Read, wire_sizes
from store.session.tide import BACKGROUND, FOREGROUND, Tide
from store.wire.cut import fragments
from store.wire.header import (
    DATA,
    DATA_CAPPED,
    DATA_ECHO,
    DATA_HOLE,
    ECHO,
    HOLE,
    Flag,
    Kind,
    Malformed,
    Op,
)
from store.wire.message import LONE_OVERHEAD, OVERHEAD

SMALL: Final = 64 * KIB  # reads up to this go before larger ones
LONE: Final = 4  # datagrams asked for together whatever the rate, and at once when nothing is in flight: 4 KiB
PARKED_MAX: Final = 4 * MIB
CREDIT_WAIT_S: Final = 0.01  # until a path that the common credit stopped looks again, if nobody wakes it
_AROUND: Final = LONE_OVERHEAD + IP_UDP
_REQUEST: Final = int(Kind.REQUEST)
_READ: Final = int(Op.READ)
_UNTORN: Final = int(Flag.UNTORN)
_BACKGROUND: Final = int(Flag.BACKGROUND)
_ZEROS: Final = bytes(BURST_MAX)
_NEVER: Final = float("inf")


class Reader:
    """All reads of one endpoint."""

    __slots__ = (
        "_background", "_bulk", "_credit", "_credited", "_done", "_large", "_mtu", "_outbox", "_path", "_resting",
        "_small", "_wake", "reads",
    )

    def __init__(self, outbox: Outbox, credit: Credit, mtu: PathMtu, done: list[Completion]) -> None:
        self._outbox = outbox
        self._credit = credit
        self._mtu = mtu
        self._done = done
        self.reads: dict[int, Read] = {}
        self._small: deque[Read] = deque()
        self._large: deque[Read] = deque()
        self._bulk: deque[Read] = deque()  # background
        self._resting: list[Read] = []  # wait because the daemon said BUSY
        self._path = AskPath(Tide(outbox.size + IP_UDP, FOREGROUND))
        self._background: AskPath | None = None
        self._credited = 0  # what this endpoint has taken of the credit
        self._wake = _NEVER  # when pacing or the credit lets the next burst go

    def paths(self) -> tuple[AskPath, ...]:
        return (self._path,) if self._background is None else (self._path, self._background)

    # ---- asking

    def add(self, read: Read) -> None:
        """Take a read over; it is asked for by the next `pump`."""
        self.reads[read.number] = read
        self._queue(read).append(read)

    def _queue(self, read: Read) -> deque[Read]:
        if read.flags & _BACKGROUND:
            if self._background is None:
                self._background = AskPath(Tide(self._outbox.size + IP_UDP, BACKGROUND))
            return self._bulk
        return self._small if read.length <= SMALL else self._large

    def pump(self, now: float) -> None:
        """Ask for what may be asked for now."""
        self._wake = _NEVER
        if self._resting:
            self._rouse(now)
        if self._small:
            self._ask_queue(now, self._path, self._small)
        if self._large and not self._small:
            self._ask_queue(now, self._path, self._large)
        if self._bulk and self._background is not None:
            self._ask_queue(now, self._background, self._bulk)

    def _rouse(self, now: float) -> None:
        resting, self._resting = self._resting, []
        for read in resting:
            if read.rest > now and not read.ended:
                self._resting.append(read)
                self._wake = min(self._wake, read.rest)
            else:
                self._queue(read).append(read)

    def _ask_queue(self, now: float, path: AskPath, queue: deque[Read]) -> None:
        """Ask for the reads of `queue` in order, until window, credit or pacing says stop."""
        credit = self._credit
        while queue:
            read = queue[0]
            if read.ended or (read.asked == read.length and not read.retry):
                queue.popleft()
            elif read.rest > now:
                self._wake = min(self._wake, read.rest)
                self._resting.append(queue.popleft())
            elif read.deadline < now + path.base_rtt:
                self.end(read, Completion(read.number, Status.TIMEOUT))
            else:
                size = self._outbox.size
                datagrams = self._allowed(now, path, read, size)
                if not datagrams:
                    return
                wire = self._ask(now, path, read, datagrams, size, len(queue) > 1)
                credit.used += wire
                self._credited += wire

    def _allowed(self, now: float, path: AskPath, read: Read, size: int) -> int:
        """How many datagrams may be asked for now; 0: none yet."""
        tide, full = path.tide, size + IP_UDP
        left = read.length - read.asked
        if left + _AROUND <= full and not read.retry:
            count, wire = 1, left + _AROUND
            least: float = wire
        else:
            count = max(LONE, burst_size(path.pace, tide.window, full) // full)
            if not read.retry:
                count = min(count, fragments(left, size))
            wire = count * full
            least = min(wire, tide.window / 4)
        if path.flight <= 0 and count <= LONE:
            return count
        if path.parked > PARKED_MAX:
            return 0
        room = tide.window - path.flight
        credit = self._credit.room()
        if credit < room:
            room = credit
            if room < wire:
                self._credit.short()
                self._wake = min(self._wake, now + CREDIT_WAIT_S)
        if room < wire:
            if path.flight > 0 and room < least:
                return 0
            count = max(1, int(room) // full)
        if path.next_send > now:
            self._wake = min(self._wake, path.next_send)
            return 0
        return count

    def _ask(self, now: float, path: AskPath, read: Read, most: int, size: int, more: bool) -> int:
        """Send one READ for at most `most` datagrams; how many bytes on the wire they will be."""
        number = self._outbox.next_number() if read.asked else read.number
        if not read.asked and read.length + LONE_OVERHEAD <= size:
            read.asked = read.length
            parts: Parts = ((read.offset, read.length),)
            count, each = 1, read.length + _AROUND
        else:
            parts = read.take(most, size)
            if not parts:
                return 0
            count, each = wire_sizes(parts, size)
        post_read(self._outbox, now, read, number, parts, size)
        ask = Ask(self._outbox.packet - 1, count, each, number, path.asked, read, parts, size)
        path.asked += 1
        path.numbers[number] = ask
        wire = count * each
        path.send(now, ask, path.flight + wire > path.tide.window / 2 and (more or read.waiting))
        return wire

    # ---- answers

    def _find(self, number: int) -> tuple[AskPath, Ask | None]:
        path = self._path
        ask = path.numbers.get(number)
        if ask is None and self._background is not None:
            path = self._background
            ask = path.numbers.get(number)
        return path, ask

    def data(self, now: float, body: memoryview, packet: int, delay: float) -> None:
        """A DATA in the daemon's `packet`; `delay` is its one-way delay. Raises `Malformed`."""
        if len(body) < DATA.size:
            raise Malformed("shorter than a DATA")
        _, flags, index, number, offset, object_size, order, verifier, version = DATA.unpack_from(body)
        path, ask = self._find(number)
        if ask is None:
            return
        at = DATA.size
        if flags & DATA_ECHO:
            at += ECHO.size
            if len(body) < at:
                raise Malformed("a DATA shorter than its ECHO")
            self._echo(now, path, ask, packet, flags, body)
        if delay < path.delay:  # noqa: PLR1730 - `min` costs four times as much, for each datagram
            path.delay = delay
        parts, read = ask.parts, ask.read
        lone = ask.count == 1
        where, length = parts[0] if lone and len(parts) == 1 else read.place(parts, ask.span, index)
        exists = min(length, object_size - where)
        if index >= ask.count or where != offset:
            raise Malformed("a DATA that was not asked for")
        if not path.mark_data(now, ask, index, packet):
            return
        if self._mtu.lost_in_row:
            self._mtu.arrived(now, len(body) + OVERHEAD, ask.sent)
        if exists < length:
            exists = max(exists, 0)
            path.shorten(ask, Read.exists(parts, ask.span, object_size))
        if read.ended:
            return
        if read.version != version:
            if read.version >= 0 and read.flags & _UNTORN:
                self.end(read, Completion(read.number, Status.CONFLICT, order, verifier, version, object_size))
                return
            read.version = max(read.version, version)
        read.busy = 0
        read.object_size = object_size if read.object_size < 0 else min(read.object_size, object_size)
        start = offset - read.offset
        if flags & DATA_HOLE:
            exists = self._hole(path, ask, index, HOLE.unpack_from(body, at)[0] if len(body) >= at + 4 else -1, offset)
            read.into[start : start + exists] = _ZEROS[:exists]
        elif exists != len(body) - at:
            raise Malformed("a DATA of the wrong length")
        elif exists:
            read.into[start : start + exists] = body[at:]
        if read.take_in(start, start + exists):
            done = Completion(read.number, Status.OK, order, verifier, read.version, read.object_size)
            done.length = read.want()
            self.end(read, done)

    def _echo(self, now: float, path: AskPath, ask: Ask, packet: int, flags: int, body: memoryview) -> None:
        top, received, answered, held_us = ECHO.unpack_from(body, DATA.size)
        path.echoed(packet, top, received, answered)
        path.tide.capped = bool(flags & DATA_CAPPED)
        if ask.packet > path.largest:
            path.largest = ask.packet
            held = held_us * 1e-6
            path.held.add(held)
            path.sampled(ask, now - ask.sent - held)

    @staticmethod
    def _hole(path: AskPath, ask: Ask, index: int, length: int, offset: int) -> int:
        """A DATA that stands for a whole range of zeros; its length. Raises `Malformed`."""
        first = 0
        for start, whole in ask.parts:
            count = fragments(whole, ask.span)
            if index == first and start == offset and 0 <= length <= whole:
                path.shorten(ask, ask.full & ~((1 << count) - 2 << first))
                return length
            first += count
        raise Malformed("a hole that was not asked for")

    def reply(self, now: float, number: int, completion: Completion) -> bool:
        """A REPLY that ends a READ without data; whether `number` is one of these."""
        path, ask = self._find(number)
        if ask is None:
            return False
        read, wanted = ask.read, ask.full
        path.shorten(ask, ask.got | 1)
        path.mark(now, ask, 1)
        if read.ended:
            return True
        if completion.status is Status.BUSY and read.length > SMALL and read.busy < BUSY_BURSTS_MAX:
            if now >= read.rest:
                read.busy += 1
            read.rest = now + completion.length * (0.001 + 0.0005 * (number & 63) / 63)
            self._again(read, ask.parts, ask.span, wanted)
        else:
            completion.number = read.number
            self.end(read, completion)
        return True

    def _again(self, read: Read, parts: Parts, span: int, missing: int) -> None:
        """Ask once more for some datagrams of an answer."""
        waiting = read.waiting
        read.lost(parts, span, missing)
        if not waiting:
            self._queue(read).appendleft(read)

    def acknowledged(self, top: int, bitmap: int) -> None:
        """An ACK: which requests the daemon has."""
        for path in self.paths():
            path.seen(top, bitmap)

    def end(self, read: Read, completion: Completion) -> None:
        """Finish a read."""
        read.ended = True
        if self.reads.pop(read.number, None) is not None:
            self._done.append(completion)

    def cancel(self, number: int) -> None:
        """Forget a read: nothing is written into its buffer any more."""
        read = self.reads.pop(number, None)
        if read is not None:
            read.ended = True

    # ---- after a batch, and time

    def flush(self, now: float) -> None:
        """All arrivals of a batch are marked: find losses, move windows, give credit back."""
        for path in self.paths():
            if path.due(now):
                self._flush(now, path)
            if path.losses:
                self._take_losses(path)
        self.settle()

    def _flush(self, now: float, path: AskPath) -> None:
        acked, newest = path.acked, path.newest
        lost = path.flush(now)
        self._credit.arrived(now, path, acked, lost)
        self._mtu.earned += acked
        if newest is not None:
            self._mtu.alive(newest.size - IP_UDP, newest.sent)

    def settle(self) -> None:
        """Bring the common credit to what is in flight now."""
        flight = self._path.flight if self._background is None else self._path.flight + self._background.flight
        if flight != self._credited:
            self._credit.used += flight - self._credited
            self._credited = flight

    def _take_losses(self, path: AskPath) -> None:
        for ask, missing in path.losses:
            if not ask.got:
                self._mtu.lost(ask.size - IP_UDP, ask.sent)
            if not ask.read.ended:
                self._again(ask.read, ask.parts, ask.span, missing)
        path.losses.clear()

    def fail_all(self) -> None:
        """Ask again for everything in flight."""
        for path in self.paths():
            path.fail_all()
            self._take_losses(path)
        self.settle()

    def reborn(self) -> None:
        """Another process of the daemon answers from now on."""
        for path in self.paths():
            path.forget_daemon()
            path.tide.base.forget()
        self.fail_all()

    def resize(self, size: int) -> None:
        """Datagrams of up to `size` bytes from now on."""
        for path in self.paths():
            path.tide.size = size + IP_UDP

    def expire(self, now: float) -> bool:
        """Let time pass; True if a probe timeout fired."""
        fired = False
        for path in self.paths():
            if path.due(now):
                self._flush(now, path)
            if now >= path.deadline():
                fired |= path.expire(now)
            if path.losses:
                self._take_losses(path)
        self.settle()
        return fired

    def give_up(self, now: float) -> float:
        """Complete reads past their deadline; the next deadline."""
        soonest = _NEVER
        for read in list(self.reads.values()):
            if now >= read.deadline:
                self.end(read, Completion(read.number, Status.TIMEOUT))
            elif read.deadline < soonest:
                soonest = read.deadline
        return soonest

    def deadline(self) -> float:
        """When `pump` or `expire` has something to do; infinite: only after something was received."""
        deadline = self._path.deadline()
        deadline = self._wake if self._wake < deadline else deadline
        return deadline if self._background is None else min(deadline, self._background.deadline())
