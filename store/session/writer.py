"""Requests that end with one REPLY: everything but READ. Sent whole or in fragments, as windows and pacing allow."""

from collections import deque
from typing import Final

from store.errors import Status
from store.limits import WRITE_WINDOW_FIRST
from store.session.completion import Completion
from store.session.estimate import Smoothed
from store.session.mtu import PathMtu
from store.session.mutation import Flight, Mutation
from store.session.outbox import Outbox
from store.session.pacing import burst_size
from store.session.read import IP_UDP
from store.session.send_path import SendPath
from store.session.tide import BACKGROUND, FOREGROUND, Tide
from store.wire.header import FRAGMENT, Flag, Kind
from store.wire.message import LEFT, LEFT_AT, STAMP, STAMP_AT

LONE: Final = 3  # datagrams that may always be sent when nothing is in flight
REPLY_WAIT_MIN_S: Final = 0.05
REPLY_WAIT_MAX_S: Final = 1.0
REPLY_WAIT_FIRST_S: Final = 0.3
DOUBLINGS_MAX: Final = 3
ACK_DELAY_MAX_MS: Final = 8
_REQUEST, _FRAGMENT, _BACKGROUND = int(Kind.REQUEST), int(Kind.FRAGMENT), int(Flag.BACKGROUND)
_NEVER: Final = float("inf")


class Lane:
    """One class of traffic: its window, and what waits for it."""

    __slots__ = ("path", "pieces", "whole")

    def __init__(self, tide: Tide) -> None:
        self.path: SendPath[Flight] = SendPath(tide)
        self.whole: deque[Mutation] = deque()  # requests that fit one datagram
        self.pieces: deque[Mutation] = deque()  # the others


class Writer:
    """All requests but READs of one endpoint."""

    __slots__ = (
        "_done", "_lanes", "_mtu", "_outbox", "_reply_time", "_wake", "credit", "next_due", "open_bytes", "requests",
        "wanting",
    )

    def __init__(self, outbox: Outbox, mtu: PathMtu, done: list[Completion]) -> None:
        self._outbox = outbox
        self._mtu = mtu
        self._done = done
        self.requests: dict[int, Mutation] = {}
        self._lanes = [Lane(Tide(outbox.size + IP_UDP, FOREGROUND))]  # foreground, then background
        self._reply_time = Smoothed()
        self._wake = _NEVER
        self.credit = WRITE_WINDOW_FIRST  # bytes of unfinished fragmented requests the daemon allows
        self.open_bytes = 0
        self.next_due = _NEVER  # when the first REPLY may be overdue
        self.wanting = False  # a request in fragments waits for this end's address to be proved

    def paths(self) -> list[SendPath[Flight]]:
        return [lane.path for lane in self._lanes]

    @property
    def ack_delay_ms(self) -> int:
        """How long the daemon may wait before it acknowledges."""
        return max(1, min(int(self._lanes[0].path.rtt.mean * 1000 / 16), ACK_DELAY_MAX_MS))

    # ---- sending

    def add(self, mutation: Mutation) -> None:
        """Take a request over; it is sent by the next `pump`."""
        self.requests[mutation.number] = mutation
        self._lanes[0].path.ack_delay = self.ack_delay_ms * 0.001
        self._queue(mutation).append(mutation)

    def _queue(self, mutation: Mutation) -> deque[Mutation]:
        outbox, lane = self._outbox, self._lanes[0]
        if mutation.flags & _BACKGROUND:
            if len(self._lanes) == 1:
                self._lanes.append(Lane(Tide(outbox.size + IP_UDP, BACKGROUND)))
            lane = self._lanes[1]
        whole = not mutation.started and mutation.total + outbox.overhead <= outbox.size
        return lane.whole if whole else lane.pieces

    def pump(self, now: float) -> None:
        """Send what may be sent now."""
        self._wake = _NEVER
        self.wanting = False
        for lane in self._lanes:
            while lane.whole and self._send_whole(now, lane):
                pass
            if lane.pieces and not lane.whole:
                self._send_pieces(now, lane.path, lane.pieces)

    def _send_whole(self, now: float, lane: Lane) -> bool:
        """Send one burst of requests that fit a datagram; False when no more may be sent now."""
        outbox, path, queue = self._outbox, lane.path, lane.whole
        if path.flight > 0 and path.next_send > now:
            self._wake = min(self._wake, path.next_send)
            return False
        cargo: list[tuple[Mutation, int, int]] = []
        first, wire = outbox.packet, 0
        room = path.tide.window - path.flight
        burst = min(room, burst_size(path.pace, path.tide.window, outbox.size + IP_UDP))
        while queue:
            mutation = queue[0]
            size = mutation.total + outbox.overhead
            if mutation.ended or not mutation.waiting:
                queue.popleft()
            elif size > outbox.size:  # the ticket, or a path that has become smaller, leaves too little room
                lane.pieces.append(queue.popleft())
            elif wire + size + IP_UDP > burst and (path.flight > 0 or len(cargo) >= LONE):
                break
            else:
                queue.popleft()
                wire += self._post_whole(now, mutation) + IP_UDP
                cargo.append((mutation, 0, mutation.total))
        if not cargo:
            return False
        flight = Flight(first, wire // len(cargo), cargo)
        path.send(now, flight, path.flight + wire > path.tide.window / 2)
        for index, (mutation, _, _) in enumerate(cargo):
            mutation.burst, mutation.bit = flight, 1 << index
        return True

    def _post_whole(self, now: float, mutation: Mutation) -> int:
        outbox, head = self._outbox, mutation.head
        at = outbox.place(mutation.total)
        buffer = outbox.buffer
        end = at + len(head)
        buffer[at:end] = head
        buffer[end : at + mutation.total] = mutation.payload
        LEFT.pack_into(buffer, at + LEFT_AT, max(1, int((mutation.deadline - now) * 1000)))
        STAMP.pack_into(buffer, at + STAMP_AT, outbox.stamp)
        mutation.sent = mutation.total
        mutation.resend.clear()
        mutation.unacked = 1
        self._expect_reply(now, mutation)
        return outbox.post(_REQUEST, mutation.total)

    def _expect_reply(self, now: float, mutation: Mutation) -> None:
        """All of a request is on its way."""
        if mutation.sent_at < 0:
            mutation.sent_at = now
        due = mutation.due = now + self._reply_wait(mutation)
        self.next_due = min(self.next_due, due)

    def _send_pieces(self, now: float, path: SendPath[Flight], queue: deque[Mutation]) -> None:
        """Send requests in fragments, burst by burst."""
        outbox = self._outbox
        while queue:
            mutation = queue[0]
            if mutation.ended or not mutation.waiting:
                queue.popleft()
                continue
            if not outbox.stamp:
                self.wanting = True  # fragments from an address that is not proved would be refused
                return
            if not mutation.started:
                if self.open_bytes and self.open_bytes + mutation.total > self.credit:
                    return
                mutation.started = True
                self.open_bytes += mutation.total
                LEFT.pack_into(mutation.head, LEFT_AT, max(1, int((mutation.deadline - now) * 1000)))
            full = outbox.size + IP_UDP
            burst = burst_size(path.pace, path.tide.window, full)
            room = path.tide.window - path.flight
            if room < burst:
                if path.flight > 0 and room < min(burst, path.tide.window / 4, (mutation.total + full)):
                    return
                burst = max(int(room), full)
            if path.flight > 0 and path.next_send > now:
                self._wake = min(self._wake, path.next_send)
                return
            self._send_burst(now, path, mutation, max(1, burst // full), len(queue) > 1)

    def _send_burst(
        self, now: float, path: SendPath[Flight], mutation: Mutation, count: int, more: bool
    ) -> None:
        """Send up to `count` fragments of one request."""
        outbox = self._outbox
        most = outbox.size - outbox.overhead - FRAGMENT.size
        first, wire = outbox.packet, 0
        cargo: list[tuple[Mutation, int, int]] = []
        resend, total = mutation.resend, mutation.total
        while len(cargo) < count and (resend or mutation.sent < total):
            if resend:
                start, stop = resend.pop()
                end = min(stop, start + most)
                if end < stop:
                    resend.append((end, stop))
            else:
                start = mutation.sent
                end = mutation.sent = min(total, start + most)
            at = outbox.place(FRAGMENT.size + end - start)
            FRAGMENT.pack_into(outbox.buffer, at, mutation.number, start, total)
            mutation.piece(start, end, outbox.buffer, at + FRAGMENT.size)
            wire += outbox.post(_FRAGMENT, FRAGMENT.size + end - start) + IP_UDP
            cargo.append((mutation, start, end))
        mutation.unacked += len(cargo)
        flight = Flight(first, wire // len(cargo), cargo)
        path.send(now, flight, (more or mutation.waiting) and path.flight + wire > path.tide.window / 2)
        if not mutation.waiting:
            self._expect_reply(now, mutation)

    def _reply_wait(self, mutation: Mutation) -> float:
        """How long to wait for a REPLY before asking what became of the request."""
        reply = self._reply_time
        if reply.mean < 0:
            wait = REPLY_WAIT_FIRST_S
        else:
            wait = max(REPLY_WAIT_MIN_S, min(reply.mean + 4 * reply.deviation, REPLY_WAIT_MAX_S))
        return wait * (1 << min(mutation.pokes, DOUBLINGS_MAX))

    # ---- answers

    def acknowledged(self, now: float, top: int, bitmap: int, rtt: float, delay: float, credit: int) -> None:
        """An ACK."""
        self.credit = credit
        for path in self.paths():
            if delay < path.delay and top > path.largest:
                path.delay = delay
            path.acknowledged(now, top, bitmap, rtt)

    def reply(self, now: float, completion: Completion) -> None:
        """A REPLY to one of these requests."""
        mutation = self.requests.get(completion.number)
        if mutation is None:
            return
        flight = mutation.burst
        if flight is not None:
            if self._mtu.lost_in_row:
                self._mtu.arrived(now, flight.size - IP_UDP, flight.sent)
            for path in self.paths():
                if flight.packet in path.open:
                    path.mark(now, flight, mutation.bit)
                    break
        if not mutation.pokes and mutation.sent_at >= 0:
            self._reply_time.add(now - mutation.sent_at)
        self.end(mutation, completion)

    def end(self, mutation: Mutation, completion: Completion) -> None:
        """Finish a request."""
        self._drop(mutation)
        self._done.append(completion)

    def _drop(self, mutation: Mutation) -> None:
        mutation.ended = True
        del self.requests[mutation.number]
        if mutation.started:
            self.open_bytes -= mutation.total

    def cancel(self, number: int) -> None:
        """Forget a request; it may have been executed, or be later."""
        mutation = self.requests.get(number)
        if mutation is not None:
            self._drop(mutation)

    # ---- after a batch, and time

    def flush(self, now: float) -> None:
        """All arrivals of a batch are marked: find losses, move windows."""
        for lane in self._lanes:
            path = lane.path
            if path.due(now) or path.overtaken:
                newest = path.newest
                self._mtu.earned += path.acked
                path.flush(now)
                if newest is not None:
                    self._mtu.alive(newest.size - IP_UDP, newest.sent)
            if path.arrivals:
                self._take_arrivals(now, path)
            if path.losses:
                self._take_losses(path)

    def _take_arrivals(self, now: float, path: SendPath[Flight]) -> None:
        mtu = self._mtu
        for flight, mask in path.arrivals:
            if mtu.lost_in_row:
                mtu.arrived(now, flight.size - IP_UDP, flight.sent)
            for index, (mutation, _, _) in enumerate(flight.cargo):
                if mask >> index & 1:
                    mutation.unacked -= 1
        path.arrivals.clear()

    def _take_losses(self, path: SendPath[Flight]) -> None:
        for flight, missing in path.losses:
            if not flight.got:
                self._mtu.lost(flight.size - IP_UDP, flight.sent)
            for index, (mutation, start, end) in enumerate(flight.cargo):
                if missing >> index & 1 and not mutation.ended:
                    mutation.unacked -= 1
                    self._again(mutation, start, end)
        path.losses.clear()

    def _again(self, mutation: Mutation, start: int, end: int) -> None:
        waiting = mutation.waiting
        mutation.resend.append((start, end))
        mutation.due = _NEVER
        if not waiting:
            self._queue(mutation).appendleft(mutation)

    def fail_all(self) -> None:
        """Send everything in flight again."""
        for path in self.paths():
            path.fail_all()
            self._take_losses(path)

    def reborn(self) -> None:
        """Another process of the daemon answers from now on: it has received nothing yet."""
        for path in self.paths():
            path.tide.base.forget()
            path.fail_all()
            path.losses.clear()
        for mutation in list(self.requests.values()):
            self._from_start(mutation)

    def _from_start(self, mutation: Mutation) -> None:
        waiting = mutation.waiting
        mutation.resend.clear()
        mutation.sent = mutation.unacked = 0
        mutation.due = _NEVER
        if not waiting:
            self._queue(mutation).appendleft(mutation)

    def resize(self, size: int) -> None:
        """Datagrams of up to `size` bytes from now on."""
        for path in self.paths():
            path.tide.size = size + IP_UDP

    def expire(self, now: float) -> bool:
        """Let time pass; True if a probe timeout fired."""
        fired = False
        for path in self.paths():
            if now >= path.deadline():
                fired |= path.expire(now)
            if path.losses:
                self._take_losses(path)
        return fired

    def give_up(self, now: float) -> tuple[float, bool]:
        """Complete what is past its deadline, ask again for replies that are overdue.

        The next deadline, and whether a reply was overdue.
        """
        soonest, overdue = _NEVER, False
        self.next_due = _NEVER
        for mutation in list(self.requests.values()):
            if now >= mutation.deadline:
                self.end(mutation, Completion(mutation.number, Status.TIMEOUT))
                continue
            if now >= mutation.due:
                overdue = True
                self._poke(now, mutation)
            soonest = min(soonest, mutation.deadline)
            self.next_due = min(self.next_due, mutation.due)
        return soonest, overdue

    def _poke(self, now: float, mutation: Mutation) -> None:
        """The REPLY is overdue: repeat the request. Of a fragmented one the first time only the beginning, which the
        daemon answers if it has finished; then all of it, for it may have been dropped."""
        if mutation.started and mutation.unacked > 0:
            mutation.due = now + self._reply_wait(mutation)  # the path still looks after its fragments
            return
        mutation.pokes += 1
        if mutation.started and mutation.pokes == 1:
            self._again(mutation, 0, 1)
        else:
            self._from_start(mutation)

    def deadline(self) -> float:
        """When `pump`, `expire` or `give_up` has something to do; infinite: only after something was received."""
        deadline = self._lanes[0].path.deadline()
        if len(self._lanes) > 1:
            deadline = min(deadline, self._lanes[1].path.deadline())
        if self.requests:
            deadline = min(deadline, self._wake, self.next_due)
        return deadline
