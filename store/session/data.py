"""Answers laid out in a daemon's send buffers: small ones, and DATA slots the shell reads file blocks straight into."""

from collections.abc import Sequence
from typing import Any, Final

from store.limits import DATAGRAM_MAX, ECHO_EVERY
from store.session.egress import Chunk, Egress
from store.session.peer import Answer, Session
from store.wire.cut import ECHO_SIZE, answer_size, fragment_start, fragments
from store.wire.header import DATA, DATA_ECHO, DATA_HOLE, HEADER, HOLE, REPLY, TAG, Flag, Kind
from store.wire.message import LONE_OVERHEAD, OVERHEAD, Request

_HEAD: Final = HEADER.size
_BODY: Final = HEADER.size + DATA.size  # where the data of a datagram without ECHO begins
_LONE_BODY: Final = _BODY + ECHO_SIZE
_DATA: Final = int(Kind.DATA)
_REPLY: Final = int(Kind.REPLY)
_BASIC_REPLY: Final = OVERHEAD + REPLY.size
_NEVER: Final = float("inf")
URGENT_MAX: Final = 512  # bytes of a REPLY that does not wait behind data
_BACKGROUND: Final = int(Flag.BACKGROUND)
_PROVED: Final = DATAGRAM_MAX  # a request's budget when its address is


class DataSlots:
    """The answer being filled, if any, and the small answers that need no filling."""

    __slots__ = ("_chunk", "_egress", "_request", "_start")

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._request: Request | None = None
        self._chunk: Chunk | None = None
        self._start = 0

    def small(self, session: Session, address: Any, kind: int, body: bytes, size: int) -> None:
        """Queue a datagram of `body`, padded with zeros to `size` bytes if that is more."""
        length = max(min(size, DATAGRAM_MAX), len(body) + OVERHEAD)
        chunk = self._egress.urgent(session, length, address)
        start = chunk.fill
        end = chunk.fill = start + length
        filled = start + _HEAD + len(body)
        chunk.buffer[start + _HEAD : filled] = body
        if filled < end - TAG:
            chunk.buffer[filled : end - TAG] = bytes(end - TAG - filled)
        self._egress.put(session, chunk, (start, end, kind, 0, 0, 0.0))

    def reply(
        self, session: Session, address: Any, number: int, answer: Answer, data: bytes | memoryview, background: int
    ) -> None:
        """Queue a REPLY; one with little data goes before all bulk."""
        size = _BASIC_REPLY + len(data)
        if size <= URGENT_MAX:
            chunk = self._egress.urgent(session, size, address)
        else:
            chunk = self._egress.chunk(session, size, address, background, _NEVER)
        start = chunk.fill
        status, order, verifier, version, object_size = answer
        REPLY.pack_into(
            chunk.buffer, start + _HEAD, status, 0, len(data), number, order, verifier, version, session.stamp,
            object_size,
        )
        end = chunk.fill = start + size
        if data:
            chunk.buffer[start + _HEAD + REPLY.size : end - TAG] = data
        self._egress.put(session, chunk, (start, end, _REPLY, 0, 0, 0.0))

    def begin(self, request: Request) -> list[tuple[int, list[memoryview]]]:
        """The views of a READ's answer, range by range."""
        assert self._request is None, "the answer before this one was neither ended nor cancelled"
        session, size, wire = request.session, request.fragment, request.wire
        address = session.address if request.budget == _PROVED else request.address
        chunk = self._egress.chunk(session, wire, address, request.flags & _BACKGROUND, request.deadline)
        self._request, self._chunk = request, chunk
        at = self._start = chunk.fill
        chunk.fill = at + wire
        view = chunk.view
        slots = []
        for offset, length in request.ranges:
            body = at + _LONE_BODY
            if body + length + TAG <= at + size:
                views = [view[body : body + length]]
                at = body + length + TAG
            else:
                views, at = _views(view, at, length, size)
            slots.append((offset, views))
        return slots

    def cancel(self) -> None:
        assert self._chunk is not None, "no answer was begun"
        self._chunk.fill = self._start
        self._request = self._chunk = None

    def end(
        self, order: int, verifier: int, version: int, object_size: int, holes: Sequence[tuple[int, int]]
    ) -> None:
        """Put the headers of the answer and queue its datagrams."""
        request, chunk = self._request, self._chunk
        assert request is not None and chunk is not None, "no answer was begun"
        self._request = self._chunk = None
        at, size, index = self._start, request.fragment, 0
        for offset, length in request.ranges:
            if holes and _within(holes, offset, min(offset + length, object_size)):
                self._hole(request, chunk, at, index, offset, length, (object_size, order, verifier, version))
            elif length + LONE_OVERHEAD <= size and offset + length <= object_size:
                DATA.pack_into(
                    chunk.buffer, at + _HEAD, 0, DATA_ECHO | self._egress.flags, index, request.number, offset,
                    object_size, order, verifier, version,
                )
                end = at + length + LONE_OVERHEAD
                self._egress.put(
                    request.session, chunk, (at, end, _DATA, at + _BODY, request.packet, request.arrived)
                )
                at = end
                index += 1
                continue
            else:
                self._range(request, chunk, at, index, offset, length, (object_size, order, verifier, version))
            at += answer_size(length, size)
            index += fragments(length, size)

    def _range(
        self, request: Request, chunk: Chunk, at: int, index: int, offset: int, length: int,
        common: tuple[int, int, int, int],
    ) -> None:
        """Queue the datagrams of one range, as far as the object reaches; at least one, even if it is empty."""
        session, size, buffer, number = request.session, request.fragment, chunk.buffer, request.number
        pack, put, packet, arrived = DATA.pack_into, self._egress.put, request.packet, request.arrived
        object_size, order, verifier, version = common
        count = fragments(length, size)
        limit = max(0, min(length, object_size - offset))
        start = 0
        for step in range(count):
            if start >= limit and step:
                break
            stop = length if step == count - 1 else fragment_start(step + 1, size)
            echo = step % ECHO_EVERY == 0
            body = at + _BODY + (ECHO_SIZE if echo else 0)
            end = body + min(stop, limit) - start + TAG
            flags = self._egress.flags | (DATA_ECHO if echo else 0)
            pack(
                buffer, at + _HEAD, 0, flags, index + step, number, offset + start, object_size, order, verifier,
                version,
            )
            put(session, chunk, (at, end, _DATA, at + _BODY if echo else 0, packet, arrived))
            at += size
            start = stop

    def _hole(
        self, request: Request, chunk: Chunk, at: int, index: int, offset: int, length: int,
        common: tuple[int, int, int, int],
    ) -> None:
        """Queue one datagram that stands for a whole range of zeros."""
        session = request.session
        object_size, order, verifier, version = common
        DATA.pack_into(
            chunk.buffer, at + _HEAD, 0, DATA_ECHO | DATA_HOLE | self._egress.flags, index, request.number, offset,
            object_size, order, verifier, version,
        )
        body = at + _BODY + ECHO_SIZE
        HOLE.pack_into(chunk.buffer, body, max(0, min(length, object_size - offset)))
        end = body + HOLE.size + TAG
        self._egress.put(session, chunk, (at, end, _DATA, at + _BODY, request.packet, request.arrived))


def _views(view: memoryview, at: int, length: int, size: int) -> tuple[list[memoryview], int]:
    """The data parts of the datagrams from `at` on that carry `length` bytes, and where the last of them ends."""
    views = []
    step, left = 0, length
    while left > 0:
        body = at + _BODY + (ECHO_SIZE if step % ECHO_EVERY == 0 else 0)
        part = min(left, at + size - TAG - body)
        views.append(view[body : body + part])
        left -= part
        step += 1
        at = at + size if left else body + part + TAG
    return views, at


def _within(holes: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Whether [start, end) lies inside one hole."""
    return any(at <= start and end <= at + length for at, length in holes)
