"""The other daemons: two links to each, opened when the core first has something to say; frames in, core calls out."""

import ssl
from collections.abc import Callable

import structlog

from daemon.core.device import DeviceCore
from daemon.metrics import DaemonCounters
from daemon.peer_codec import (
    BadFrame,
    Part,
    unpack_acks,
    unpack_beat_oks,
    unpack_beats,
    unpack_message,
    unpack_records,
)
from daemon.peer_link import FrameType, PeerLink
from store.addresses import Address
from store.ids import DeviceId, Who

log = structlog.get_logger()


class Peers:
    """Outgoing links by device: one for data, one for beats."""

    def __init__(
        self,
        me: DeviceId,
        context: ssl.SSLContext | None,
        address_of: Callable[[DeviceId], Address | None],
        lost: Callable[[DeviceId], None],
    ) -> None:
        """Without a context (a daemon that stands alone) nothing is ever dialled."""
        self._me, self._context, self._address_of = me, context, address_of
        self._lost = lost
        self._links: dict[DeviceId, tuple[PeerLink, PeerLink]] = {}

    def send(self, device: DeviceId, kind: FrameType, parts: list[Part]) -> int:
        """Queue a frame; returns its size, 0 if there is no connection."""
        return self._link(device)[0].send(kind, parts) if self._context is not None else 0

    def send_urgent(self, device: DeviceId, kind: FrameType, parts: list[Part]) -> int:
        """As `send`, on the connection that never carries data."""
        return self._link(device)[1].send(kind, parts) if self._context is not None else 0

    def _link(self, device: DeviceId) -> tuple[PeerLink, PeerLink]:
        links = self._links.get(device)
        if links is None:
            assert self._context is not None
            context, address = self._context, lambda: self._address_of(device)
            data = PeerLink(self._me, device, address, context, lambda: self._lost(device))
            beats = PeerLink(self._me, device, address, context, lambda: None)
            links = self._links[device] = (data, beats)
        return links

    def close(self) -> None:
        for data, beats in self._links.values():
            data.close()
            beats.close()


class PeerFrames:
    """Turns received frames into calls of the core. A frame that cannot be read ends its connection, by BadFrame."""

    def __init__(
        self,
        core: DeviceCore,
        clock: Callable[[], float],
        counters: DaemonCounters,
        may_take: Callable[[int], bool],
    ) -> None:
        """`may_take` says whether the journal has room for records of so many bytes."""
        self._core, self._clock, self._counters, self._may_take = core, clock, counters, may_take

    def handle(self, device: DeviceId, kind: int, body: memoryview) -> None:
        now, core = self._clock(), self._core
        self._counters.frames_in += 1
        if kind == FrameType.RECORDS:
            if not self._may_take(len(body)):
                # As if the network had lost it: the primary sends it again, and meanwhile holds its clients back.
                self._counters.frames_refused += 1
                return
            incarnation, appends = unpack_records(body)
            core.take(now, Who(device, incarnation), appends)
        elif kind == FrameType.ACKS:
            incarnation, rows = unpack_acks(body)
            core.appended(now, Who(device, incarnation), rows)
        elif kind == FrameType.BEATS:
            incarnation, sent, beats = unpack_beats(body)
            core.beats(now, Who(device, incarnation), sent, beats)
        elif kind == FrameType.BEAT_OKS:
            incarnation, sent, rows = unpack_beat_oks(body)
            core.beat_oks(now, Who(device, incarnation), sent, rows)
        elif kind == FrameType.MESSAGE:
            core.receive(now, device, unpack_message(body))
        else:
            raise BadFrame(f"a frame of unknown type {kind}")
