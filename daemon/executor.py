"""Does what the core decided: journal, network, disk, master, clients, strictly in the order given.

`run` drains the core: effects lead to completions at the latest on a later turn of the loop, never inside the same
call, so a core is never entered twice.
"""

from collections.abc import Callable
from typing import Protocol

import structlog

from daemon.core.device import DeviceCore
from daemon.core.effects import (
    Acks,
    BeatOks,
    Beats,
    Checkpoint,
    Cut,
    Effect,
    Feed,
    Journal,
    Release,
    Replies,
    ReplyRow,
    Save,
    Send,
    Sync,
    Tell,
)
from daemon.core.record import Entry
from daemon.metrics import DaemonCounters
from daemon.peer_codec import cut_runs, pack_acks, pack_beat_oks, pack_beats, pack_message, pack_records
from daemon.peer_link import RECORDS_FRAME, FrameType
from daemon.peers import Peers
from daemon.storage.disk import Disk
from store.control.arbiter import ToMaster

log = structlog.get_logger()


class Master(Protocol):
    """Where proposals and questions go: the link to the master, or the arbiter of a daemon that stands alone."""

    def tell(self, messages: list[ToMaster]) -> None: ...


class Executor:
    """Connects one core to one disk, its peers, its master and its clients."""

    def __init__(
        self,
        core: DeviceCore,
        disk: Disk,
        peers: Peers,
        clock: Callable[[], float],
        counters: DaemonCounters,
    ) -> None:
        self._core, self._disk, self._peers, self._clock, self._counters = core, disk, peers, clock, counters
        self.master: Master | None = None
        self.answer: Callable[[list[ReplyRow]], None] | None = None
        self.after_run: Callable[[], None] | None = None  # answers leave, the timer is set anew
        self._running = False
        self._held: list[Entry] = []  # written in this tick: their bodies lie in buffers of the tick
        self._handlers: dict[type[Effect], Callable[..., None]] = {
            Journal: self._journal,
            Cut: self._cut,
            Sync: self._sync,
            Save: self._save,
            Checkpoint: self._checkpoint,
            Release: self._release,
            Feed: self._feed,
            Acks: self._acks,
            Beats: self._beats,
            BeatOks: self._beat_oks,
            Send: self._send,
            Tell: self._tell,
            Replies: self._replies,
        }

    def run(self) -> None:
        """Execute until the core wants nothing more; then let what was written this tick go out."""
        if self._running:
            return
        self._running = True
        try:
            handlers, effects = self._handlers, self._core.effects
            while todo := effects():
                for effect in todo:
                    handlers[type(effect)](effect)
        finally:
            self._running = False
        self._let_go()
        if self.after_run is not None:
            self.after_run()

    def _let_go(self) -> None:
        """Buffers of this tick are used again: from now on only the journal has these records' bytes."""
        for entry in self._held:
            entry.body = entry.payload = None
        self._held.clear()

    def _done(self, token: int) -> None:
        self._core.complete(self._clock(), token)
        self.run()

    # Disk
    def _journal(self, effect: Journal) -> None:
        self._disk.append(effect.entries)
        self._held += effect.entries
        self._counters.batches += 1

    def _cut(self, effect: Cut) -> None:
        self._disk.cut(effect.group, effect.n)

    def _sync(self, effect: Sync) -> None:
        token, began = effect.token, self._clock()

        def synced() -> None:
            self._counters.syncs += 1
            self._counters.sync_seconds += self._clock() - began
            self._done(token)

        self._disk.sync(synced)

    def _save(self, effect: Save) -> None:
        token = effect.token
        self._disk.save(effect.rows, lambda: self._done(token))

    def _checkpoint(self, effect: Checkpoint) -> None:
        token = effect.token
        self._disk.checkpoint(effect.bases, lambda: self._done(token))

    def _release(self, effect: Release) -> None:
        self._disk.release(effect.before)

    # Peers
    def _feed(self, effect: Feed) -> None:
        for appends in cut_runs(effect.appends, RECORDS_FRAME):
            try:
                parts = pack_records(effect.incarnation, appends, self._record_of)
            except LookupError as error:  # the ring has just been trimmed; the core hears of it and begins elsewhere
                log.info("a record to be resent has left the journal", reason=str(error))
                return
            self._counters.peer_bytes_out += self._peers.send(effect.device, FrameType.RECORDS, parts)

    def _record_of(self, entry: Entry) -> bytes:
        return self._disk.load_record(entry)

    def _acks(self, effect: Acks) -> None:
        self._peers.send(effect.device, FrameType.ACKS, [pack_acks(effect.incarnation, effect.rows)])

    def _beats(self, effect: Beats) -> None:
        frame = pack_beats(effect.incarnation, effect.sent, effect.rows)
        self._peers.send_urgent(effect.device, FrameType.BEATS, [frame])

    def _beat_oks(self, effect: BeatOks) -> None:
        frame = pack_beat_oks(effect.incarnation, effect.sent, effect.rows)
        self._peers.send_urgent(effect.device, FrameType.BEAT_OKS, [frame])

    def _send(self, effect: Send) -> None:
        self._peers.send(effect.device, FrameType.MESSAGE, [pack_message(effect.message)])

    # Master and clients
    def _tell(self, effect: Tell) -> None:
        if self.master is not None:
            self.master.tell(effect.messages)

    def _replies(self, effect: Replies) -> None:
        if self.answer is not None:
            self.answer(effect.rows)
