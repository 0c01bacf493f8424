"""The simulated daemon: what the real shell does, with a disk and a network that one seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from daemon.core import effects as fx
from daemon.core.device import DeviceCore
from daemon.core.messages import PeerMessage
from daemon.core.record import Entry
from daemon.core.saved import DEVICE_KEY
from store.control.arbiter import FromMaster
from store.errors import Status
from store.ids import DeviceId, GroupId, Who
from store.wire.header import Flag
from store.wire.header import Op as Kind
from tests.simulation.clients import Answer, Request
from tests.simulation.disk import Cut, Disk, Meta, Objects, copy_entry

if TYPE_CHECKING:
    from tests.simulation.world import World

IMAGE_SCOPE = 7


class Frame(NamedTuple):
    """Record runs on the wire: the entries are copied when they arrive, because a core owns what it takes."""

    incarnation: int
    appends: list[tuple[int, int, int, int, list[Entry]]]


class Rows(NamedTuple):
    """Acks, Beats and BeatOks on the wire."""

    kind: str
    incarnation: int
    sent: float
    rows: list[Any]


class Node:
    def __init__(self, world: World, number: int, device: DeviceId, disk: Disk) -> None:
        self.world = world
        self.number = number
        self.device = device
        self.disk = disk
        self.core: DeviceCore | None = None
        self.objects = Objects(disk, stubborn=False)
        self.life = 0
        self.booted: bool | None = None  # the boot id beside the claim is the running one
        self.paused_until = 0.0
        self.rate = 1.0
        self.skipped = 0.0
        self.dead = False
        self.busy_until = 0.0
        self.queue: list[fx.Save | fx.Checkpoint | tuple[fx.Sync, int]] = []
        self.checkpointed = 0  # journal offset when the last checkpoint was asked for

    def clock(self) -> float:
        return 1000.0 * (self.number + 1) + (self.world.now - self.skipped) * self.rate

    # -------------------------------------------------------------- life
    def start(self, lossless: bool) -> None:
        if self.core is not None or self.dead:
            return
        world = self.world
        self.life += 1
        self.paused_until, self.busy_until = 0.0, world.now
        fields, groups = self.disk.open()
        world.log("start", self.number, "lossless" if lossless else "lossy", fields.history)
        self.objects = Objects(self.disk, world.stubborn)
        self.checkpointed = self.disk.end
        self.core = DeviceCore(
            self.clock(), self.device, fields, groups,
            lossless=lossless, draw=world.draw, objects=self.objects, limits=world.limits,
        )  # fmt: skip
        self.drain()
        world.at(world.now, self.tick, self.life)

    def kill(self, power: bool) -> None:
        """The process ends. What was under way at the disk got there as a prefix, or not."""
        self.core = None
        self.life += 1
        rng = self.world.rng
        for job in self.queue[: rng.randint(0, len(self.queue))] if self.queue else ():
            if power or isinstance(job, fx.Save):
                self._to_platter(job)
        self.queue = []
        self.booted = True if self.booted is None else self.booted
        if power:
            self.power_off()

    def power_off(self) -> None:
        self.disk.power_cut(self.world.rng)
        self.booted = False

    def call(self, life: int, method: str, *args: Any) -> None:
        """Run a method of this object now, or when its pause is over; then what it left to do."""
        world = self.world
        if self.life != life or self.core is None:
            return
        if self.paused_until > world.now:
            world.at(self.paused_until + world.rng.uniform(0, 0.05), self.call, life, method, *args)
            return
        getattr(self, method)(*args)
        self.drain()

    def tick(self, life: int) -> None:
        self.call(life, "_tick")
        if self.life == life and self.core is not None:
            wait = (self.core.deadline() - self.clock()) / self.rate
            self.world.at(self.world.now + min(max(wait, 0.02), 0.2), self.tick, life)

    def _tick(self) -> None:
        assert self.core is not None
        self.core.tick(self.clock())
        if self.disk.end - self.checkpointed >= self.world.checkpoint_every:
            self.checkpointed = self.disk.end
            self.core.checkpoint(self.clock())

    # ----------------------------------------------------------- arrivals
    def arrive(self, src: Any, m: Any) -> None:
        core, now = self.core, self.clock()
        assert core is not None
        if isinstance(m, Request):
            self._request(m)
        elif isinstance(m, Frame):
            who = Who(self.world.devices[src], m.incarnation)
            core.take(now, who, [fx.Append(*a[:4], [copy_entry(e, -1) for e in a[4]]) for a in m.appends])
        elif isinstance(m, Rows):
            who = Who(self.world.devices[src], m.incarnation)
            if m.kind == "acks":
                core.appended(now, who, m.rows)
            elif m.kind == "beats":
                core.beats(now, who, m.sent, m.rows)
            else:
                core.beat_oks(now, who, m.sent, m.rows)
        elif src == "M":
            self._from_master(m)
        else:
            self._from_peer(self.world.devices[src], m)

    def _from_master(self, m: FromMaster) -> None:
        assert self.core is not None
        self.core.receive_master(self.clock(), m)

    def _from_peer(self, device: DeviceId, m: PeerMessage) -> None:
        assert self.core is not None
        self.core.receive(self.clock(), device, m)

    def _request(self, r: Request) -> None:
        core, now, group = self.core, self.clock(), GroupId(r.group)
        assert core is not None
        if r.op != Kind.READ:
            status = core.admit(now, self._entry(r))
            if status is not None:
                self.answer(r, status)
        elif self.world.rng.random() < 0.5:
            status = core.may_read(now, group, IMAGE_SCOPE if r.lock else 0, r.lock)
            self.answer(r, status, self._value(r) if status == Status.OK else None)
        else:  # a cold read
            delay = self.world.read_delay()
            self.world.at(self.world.now + delay, self.call, self.life, "_fetched", r, core.read_ticket(group))

    def _fetched(self, r: Request, ticket: int) -> None:
        assert self.core is not None
        scope = IMAGE_SCOPE if r.lock else 0
        status = self.core.may_answer(self.clock(), GroupId(r.group), scope, r.lock, ticket)
        self.answer(r, status, self._value(r) if status == Status.OK else None)

    def _value(self, r: Request) -> int | None:
        held = self.objects.applied.get(r.group, {}).get(r.key)
        return held[0] if held else None

    def _entry(self, r: Request) -> Entry:
        entry = Entry()
        entry.group, entry.op, entry.flags = r.group, r.op, int(Flag.DURABLE) if r.durable else 0
        entry.serial, entry.sequence, entry.floor = r.serial, r.sequence, r.floor
        entry.scope, entry.generation = (IMAGE_SCOPE, r.lock) if r.lock else (0, 0)
        entry.name, entry.offset, entry.size, entry.payload, entry.payload_sum = r.key, 0, 0, r.value, 0
        entry.where, entry.body, entry.reply = -1, None, r
        return entry

    def answer(self, r: Request, status: Status, value: int | None = None) -> None:
        assert self.core is not None
        config = self.core.config(GroupId(r.group))
        verifier = config.continuity if config else 0
        hint = self.world.numbers.get(config.primary.device) if config else None
        if status == Status.OK and config:
            assert self.core.who is not None
            self.world.epochs.act(r.group, config.order_token, self.core.who)
        self.world.send(self.number, r.client, Answer(r.group, r.serial, r.sequence, status, value, verifier, hint))

    # ------------------------------------------------------------ effects
    def drain(self) -> None:
        assert self.core is not None
        while batch := self.core.effects():
            doomed = len(batch) > 1 and self.world.faults.dies_inside()
            if doomed:
                batch = batch[: self.world.rng.randrange(1, len(batch))]
            for effect in batch:
                EXECUTE[type(effect)](self, effect)
            if doomed:
                self.world.faults.stop(self.number, False, 0.5)
                return

    def _journal(self, effect: fx.Journal) -> None:
        self.disk.append(effect.entries)

    def _cut(self, effect: fx.Cut) -> None:
        self.disk.ops.append(Cut(effect.group, effect.n))

    def _feed(self, effect: fx.Feed) -> None:
        for append in effect.appends:
            for entry in append.entries:
                assert entry.where >= self.disk.first, "a record is to be sent that the journal no longer has"
        appends = [(a.group, a.order, a.commit, a.start, a.entries) for a in effect.appends]
        self._send(effect.device, Frame(effect.incarnation, appends))

    def _acks(self, effect: fx.Acks) -> None:
        self._send(effect.device, Rows("acks", effect.incarnation, 0.0, effect.rows))

    def _beats(self, effect: fx.Beats) -> None:
        self._send(effect.device, Rows("beats", effect.incarnation, effect.sent, effect.rows))

    def _beat_oks(self, effect: fx.BeatOks) -> None:
        self._send(effect.device, Rows("oks", effect.incarnation, effect.sent, effect.rows))

    def _send_message(self, effect: fx.Send) -> None:
        self._send(effect.device, effect.message)

    def _send(self, device: DeviceId, m: Any) -> None:
        self.world.send(self.number, self.world.numbers[device], m)

    def _tell(self, effect: fx.Tell) -> None:
        for message in effect.messages:
            self.world.send(self.number, "M", message)

    def _replies(self, effect: fx.Replies) -> None:
        for request, status, size, _, _, _ in effect.rows:
            fine = status in (Status.OK, Status.NOT_FOUND)
            self.answer(request, Status.OK if fine else status, size if request.op == Kind.WRITE else None)

    def _release(self, effect: fx.Release) -> None:
        assert self.core is not None
        self.disk.trim(effect.before)
        self.core.trimmed(self.clock(), self.disk.first)

    def _sync(self, effect: fx.Sync) -> None:
        self._at_disk((effect, self.disk.end))

    def _at_disk(self, job: fx.Save | fx.Checkpoint | tuple[fx.Sync, int]) -> None:
        """The disk is a queue."""
        world = self.world
        took = world.disk_time(self.number)
        self.busy_until = max(self.busy_until + 0.0001, world.now + took)
        self.queue.append(job)
        world.at(self.busy_until, self._disk_done, self.life, job)

    def _disk_done(self, life: int, job: fx.Save | fx.Checkpoint | tuple[fx.Sync, int]) -> None:
        if self.life != life:
            return
        self.queue.remove(job)
        self._to_platter(job)
        self.call(
            life, "_complete", job[0].token if isinstance(job, tuple) else job.token, isinstance(job, fx.Checkpoint)
        )

    def _complete(self, token: int, based: bool) -> None:
        assert self.core is not None
        self.core.complete(self.clock(), token)
        if based:
            self.core.carry(self.clock(), max(self.disk.first, self.disk.end - self.world.journal_kept))

    def _to_platter(self, job: fx.Save | fx.Checkpoint | tuple[fx.Sync, int]) -> None:
        disk = self.disk
        if isinstance(job, tuple):
            disk.synced = max(disk.synced, min(job[1], disk.end))
        elif isinstance(job, fx.Checkpoint):
            disk.checkpoint(job.bases, self.objects.frozen)
        else:
            disk.ops.append(Meta(job.rows))
            disk.synced = disk.end
            if any(key == DEVICE_KEY for key, _ in job.rows):
                self.booted = True  # the boot id is saved with the claim, not before


EXECUTE: dict[type, Any] = {
    fx.Journal: Node._journal, fx.Cut: Node._cut, fx.Feed: Node._feed, fx.Acks: Node._acks, fx.Beats: Node._beats,
    fx.BeatOks: Node._beat_oks, fx.Send: Node._send_message, fx.Tell: Node._tell, fx.Replies: Node._replies,
    fx.Release: Node._release, fx.Sync: Node._sync, fx.Save: Node._at_disk, fx.Checkpoint: Node._at_disk,
}  # fmt: skip
