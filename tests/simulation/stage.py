"""A small cluster whose schedule a test directs: nothing is random, messages and disks are held back by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from daemon.core.limits import Limits
from master.core.authority import Authority
from store.errors import Status
from store.ids import DeviceId, GroupId
from store.wire.header import Op as Kind
from tests.simulation.checkers import Epochs
from tests.simulation.clients import Answer, Client, Request
from tests.simulation.disk import Disk
from tests.simulation.faults import MASTER
from tests.simulation.node import Node
from tests.simulation.world import Address, World

GROUP = GroupId(1)
Test = Callable[[Address, Address, Any], bool]


class Recorder(Client):
    """The one client of a stage: remembers what it is told."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def receive(self, now: float, m: Answer) -> None:
        self.answers.append(m)


class _Calm:
    """Faults that never happen by themselves."""

    def blocked(self, a: Address, b: Address) -> bool:
        return False

    def dies_inside(self) -> bool:
        return False


class Stage(World):
    """One group, led by device 0 at first; every message takes 2 ms, every disk operation 1 ms."""

    def __init__(self, copies: int, **limits: Any) -> None:
        self.seed, self.rng, self.trace = 0, random.Random(0), None
        self.now, self.count, self.queue = 0.0, 0, []
        self.features, self.copies, self.groups = {}, copies, (GROUP,)
        times = {"lease": 2.0, "grace": 2.5, "beat": 0.4, "cas_retry": 0.6, "join_retry": 0.8, "refresh": 3.0}
        rest = {"revive_wait": 5.0, "background_sync": 1000.0, "session_idle": 0.0, "window": 64}
        self.limits = Limits(**{**times, **rest, **limits})
        self.checkpoint_every, self.journal_kept, self.stubborn = 1000, 1000, False
        self.serials, self.incarnations = 0, 1000
        self.epochs, self.faults = Epochs(), _Calm()  # type: ignore[assignment]
        self.members = tuple(range(copies))
        self.devices = {i: DeviceId(b"device-%09d" % i) for i in self.members}
        self.numbers = {device: i for i, device in self.devices.items()}
        self.master, self.master_up = Authority({}, {}), True
        self.recorder = Recorder()
        self.clients = {"c": self.recorder}
        self.holds: list[Test] = []
        self.held: list[tuple[Address, Address, Any]] = []
        self.sequence = 0
        self.stuck: dict[int, None] = {}
        self.nodes = {i: Node(self, i, device, Disk()) for i, device in self.devices.items()}
        for node in self.nodes.values():
            node.start(lossless=False)
        self.sleep(0.5)
        members = tuple(self.devices.values())
        self.master.create(GROUP, members, members[0])
        self.master_effects()
        self.at(self.now, self._tick_master)
        self.sleep(1.0)

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        self._run_until(end)
        self.now = end

    def until(self, condition: Callable[[], bool], most: float = 20.0) -> None:
        end = self.now + most
        while not condition():
            assert self.now < end, "what the schedule waits for did not happen"
            self.sleep(0.01)

    # ------------------------------------------------------------- network
    def send(self, src: Address, dst: Address, m: object) -> None:
        if any(test(src, dst, m) for test in self.holds):
            self.held.append((src, dst, m))
        else:
            self.at(self.now + 0.002, self.deliver, src, dst, m)

    def hold(self, test: Test) -> Test:
        """Keep back messages of this kind from now on."""
        self.holds.append(test)
        return test

    def cut(self, a: Address, b: Address) -> Test:
        """Keep back everything between two."""
        return self.hold(lambda src, dst, m: {src, dst} == {a, b})

    def heal(self, test: Test) -> None:
        """Let through what is sent from now on; what was held back stays so."""
        self.holds.remove(test)

    def pass_on(self, test: Test) -> None:
        """Deliver what was held back of this kind."""
        chosen = [entry for entry in self.held if test(*entry)]
        self.held = [entry for entry in self.held if not test(*entry)]
        for src, dst, m in chosen:
            self.at(self.now + 0.002, self.deliver, src, dst, m)

    # ------------------------------------------------------------- clients
    def write(self, device: int, value: int, key: bytes = b"x", durable: bool = True, lock: int = 0) -> Status | None:
        """Send a write to a device; its answer, or None if none came soon."""
        return self._ask(device, Kind.REPLACE, key, value, lock, durable)

    def fence(self, device: int, lock: int) -> Status | None:
        return self._ask(device, Kind.FENCE, b"", None, lock, True)

    def _ask(self, device: int, op: Kind, key: bytes, value: int | None, lock: int, durable: bool) -> Status | None:
        self.sequence += 1
        s = self.sequence
        self.send("c", device, Request("c", GROUP, 1, s, s, op, key, value, lock, durable))
        self.sleep(0.1)
        return next((m.status for m in self.recorder.answers if m.sequence == s), None)

    def read(self, device: int, key: bytes = b"x") -> tuple[Status, int | None]:
        """What a read that arrives now would be told."""
        node = self.nodes[device]
        assert node.core is not None
        status = node.core.may_read(node.clock(), GROUP, 0, 0)
        held = node.objects.applied.get(GROUP, {}).get(key)
        return status, held[0] if held and status == Status.OK else None

    # ------------------------------------------------------------- devices
    def group(self, device: int) -> Any:
        core = self.nodes[device].core
        assert core is not None
        return core.groups[GROUP]

    def config(self, device: int) -> Any:
        return self.group(device).config

    def in_sync(self, device: int) -> list[int]:
        """Numbers of the devices in sync, as this device knows it."""
        return sorted(self.numbers[d] for d in self.config(device).devices())

    def crash(self, device: int) -> None:
        """A process crash, and a start on what the journal file holds."""
        node = self.nodes[device]
        node.kill(power=False)
        node.queue = []
        node.start(lossless=True)

    def checkpoint(self, device: int) -> None:
        node = self.nodes[device]
        assert node.core is not None
        node.core.checkpoint(node.clock())
        node.drain()
        self.sleep(0.1)

    def slow_disk(self, device: int) -> None:
        """From now on nothing that this disk is asked to sync gets done."""
        self.stuck[device] = None

    def disk_time(self, device: int) -> float:
        return 1e9 if device in self.stuck else 0.001


__all__ = ["GROUP", "MASTER", "Stage"]
