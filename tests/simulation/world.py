"""The simulated world: time, network, clients, the master. One seed decides everything; faults.py plans what breaks."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from daemon.core.limits import Limits
from master.core.authority import Authority, Push
from store.control.arbiter import ConfigIs
from store.ids import DeviceId, GroupId
from store.wire.header import Op as Kind
from tests.simulation import faults
from tests.simulation.checkers import NEVER, Epochs, Image, Registers, ViolationError
from tests.simulation.clients import Client, ImageClient, RegisterClient
from tests.simulation.disk import Disk, Objects
from tests.simulation.faults import FOUNDED, HEAL, MASTER
from tests.simulation.node import Node

GROUPS = (1, 2)
KEYS = {b"a": 1, b"b": 2, b"n1": 1, b"n2": 2}
BLOCKS = {b"x": 1, b"y": 1, b"z": 2}
END = 44.0
Address = int | str


class World:
    def __init__(self, seed: int, features: tuple[str, ...] = (), trace: list[str] | None = None) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.trace = trace
        self.now, self.count = 0.0, 0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.features = {f: None for f in faults.FEATURES if rng.random() < 0.3} | dict.fromkeys(features)
        self.copies = rng.choice((2, 2, 3))
        self.groups: tuple[int, ...] = GROUPS
        self._choose()
        self.values = self.serials = self.locks = 0
        self.registers, self.image, self.epochs = Registers(), Image(tuple(BLOCKS)), Epochs()
        self.members = tuple(range(self.copies))
        spares = 1 if self.has("replace") else 0
        self.devices = {i: DeviceId(b"device-%09d" % i) for i in range(self.copies + spares)}
        self.numbers = {device: i for i, device in self.devices.items()}
        self.incarnations = 1000
        self.master = Authority({}, {})
        self.master_up = True
        self.nodes = {i: Node(self, i, device, Disk()) for i, device in self.devices.items()}
        for node in self.nodes.values():
            if self.has("drift"):
                node.rate = rng.choice((0.951, 1.049, 1 + rng.uniform(-0.049, 0.049)))
        self.clients: dict[str, Client] = {}
        self.tenants = 0
        self.faults = faults.Faults(self)
        self._found()
        self.at(FOUNDED, self._begin_clients)
        self.faults.plan()
        self.at(0.0, self._tick_clients)
        self.at(0.5, self._tick_master)

    def has(self, feature: str) -> bool:
        return feature in self.features

    def _choose(self) -> None:
        rng, has = self.rng, self.has
        self.limits = Limits(
            lease=2.0, grace=2.5, beat=rng.choice((0.3, 0.5)), resend=0.3, cas_retry=0.6, join_retry=0.8, refresh=3.0,
            revive_wait=5.0, background_sync=rng.choice((0.4, 1.5, 6.0)), session_idle=0.0,
            retain=rng.choice((0, 1, 3)) if has("small_log") else 40, retain_learner=60, batch=rng.choice((2, 6)),
            tail=24, sessions=3 if has("small_table") else 12, window=8, min_write=2 if has("min_write") else 1,
        )  # fmt: skip
        self.checkpoint_every = rng.choice((4, 8, 18))
        self.journal_kept = rng.choice((4, 10)) if has("small_log") else 120
        self.stubborn = rng.random() < 0.1
        self.loss = rng.choice((0.01, 0.05, 0.15)) if has("loss") else 0.0
        self.dup = rng.choice((0.02, 0.15)) if has("dup") else 0.0
        self.slow = rng.choice((0.02, 0.1)) if has("slow") else 0.0
        self.sync_time = rng.choice((0.004, 0.03, 0.25))
        self.stop_at = HEAL - 2

    def _found(self) -> None:
        """The first registration of every device, then the groups: an undisturbed beginning."""
        for number in self.members:
            self.nodes[number].start(lossless=False)
        self._run_until(FOUNDED - 0.1)
        self.now = FOUNDED - 0.1
        members = tuple(self.devices[i] for i in self.members)
        for i, group in enumerate(self.groups):
            self.master.create(GroupId(group), members, members[i % self.copies])
        self.master_effects()
        for number, node in self.nodes.items():
            if number not in self.members:
                node.start(lossless=False)

    # -------------------------------------------------------------- events
    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        self.count += 1
        heapq.heappush(self.queue, (max(when, self.now), self.count, call, args))

    def log(self, *what: object) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:9.4f} " + " ".join(str(w) for w in what))

    def _run_until(self, end: float) -> None:
        queue = self.queue
        while queue and queue[0][0] < end:
            self.now, _, call, args = heapq.heappop(queue)
            call(*args)

    def run(self) -> int:
        self._run_until(END)
        return self.judge()

    def draw(self) -> int:
        self.incarnations += 1
        return self.incarnations

    def next_value(self) -> int:
        self.values += 1
        return self.values

    def next_serial(self) -> int:
        self.serials += 1
        return self.serials

    def next_lock(self) -> int:
        self.locks += 1
        return self.locks

    # ------------------------------------------------------------- network
    def send(self, src: Address, dst: Address, m: object) -> None:
        rng = self.rng
        if self.faults.blocked(src, dst):
            return
        faulty = FOUNDED <= self.now < HEAL
        if faulty and self.loss and rng.random() < self.loss:
            return
        if faulty and self.dup and rng.random() < self.dup:
            self.at(self.now + rng.expovariate(1 / 1.5), self.deliver, src, dst, m)
        delay = rng.uniform(0.001, 0.02)
        if faulty and self.slow and rng.random() < self.slow:
            delay += rng.expovariate(1 / 0.8)
        if faulty and self.has("far_master") and MASTER in (src, dst) and rng.random() < 0.3:
            delay += rng.uniform(0.2, 4)
        self.at(self.now + delay, self.deliver, src, dst, m)

    def deliver(self, src: Address, dst: Address, m: Any) -> None:
        if self.trace is not None:
            self.log("  ", src, "->", dst, describe(m))
        if dst == MASTER:
            if self.master_is_up():
                self.master.receive(self.devices[int(src)], m)
                self.master_effects()
        elif isinstance(dst, int):
            node = self.nodes[dst]
            node.call(node.life, "arrive", src, m)
        elif dst in self.clients:
            self.clients[dst].receive(self.now, m)

    def disk_time(self, device: int) -> float:
        return self.sync_time * self.rng.uniform(0.5, 2.0)

    def read_delay(self) -> float:
        delay = self.rng.uniform(0.0005, 0.02)
        if self.has("slow_read") and self.now < HEAL and self.rng.random() < 0.1:
            delay += self.rng.uniform(0.5, 5)
        return delay

    # -------------------------------------------------------------- master
    def master_is_up(self) -> bool:
        first = self.nodes[0]
        return self.master_up and not (self.has("colocated") and (first.core is None or first.paused_until > self.now))

    def master_effects(self) -> None:
        for effect in self.master.effects():
            if isinstance(effect, Push):
                self.send(MASTER, self.numbers[effect.device], effect.message)

    def _tick_master(self) -> None:
        self.at(self.now + 0.5, self._tick_master)
        if self.master_is_up():
            self.master.tick()
            self.master_effects()

    # ------------------------------------------------------------- clients
    def _begin_clients(self) -> None:
        for i in range(self.rng.choice((2, 3, 4))):
            self.clients[f"r{i}"] = RegisterClient(f"r{i}", self, KEYS)
        self.new_tenant()

    def new_tenant(self) -> None:
        if self.now < HEAL - 2:
            self.tenants += 1
            name = f"i{self.tenants}"
            self.clients[name] = ImageClient(name, self, BLOCKS)

    def _tick_clients(self) -> None:
        self.at(self.now + 0.1, self._tick_clients)
        for client in list(self.clients.values()):
            client.tick(self.now)

    def final_clients(self) -> None:
        """After healing: everything must be readable and writable again."""
        for client in self.clients.values():
            if isinstance(client, RegisterClient) and client.op is not None:
                client.give_up(self.now, NEVER)
        self.clients = {n: c for n, c in self.clients.items() if isinstance(c, ImageClient)}
        some_config = next(iter(self.master.configs.values()))
        self.members = tuple(self.numbers[device] for device in some_config.members)
        plan = [(Kind.READ, key) for key in KEYS] + [(Kind.REPLACE, b"a"), (Kind.READ, b"a"), (Kind.WRITE, b"n2")]
        self.last = self.clients["rz"] = RegisterClient("rz", self, KEYS, plan)
        plan = [(Kind.READ, block) for block in BLOCKS] + [(Kind.REPLACE, b"x"), (Kind.FLUSH, b"")]
        self.tenant = self.clients["iz"] = ImageClient("iz", self, BLOCKS, plan)

    # --------------------------------------------------------------- judge
    def judge(self) -> int:
        """Raises ViolationError; else how many histories were too long to be judged."""
        if self.master.closing:
            raise ViolationError("liveness: the master never closed its recovery")
        if not self.last.finished():
            raise ViolationError(f"liveness: the last register client waits: {self.last.op and self.last.op.request}")
        if not self.tenant.finished() or self.tenant.over:
            raise ViolationError("liveness: the last image client still waits")
        unsure = self.registers.check()
        for group in self.groups:
            self._judge_group(group)
        return unsure

    def _judge_group(self, group: int) -> None:
        config = self.master.configs[GroupId(group)]
        if sorted(config.devices()) != sorted(config.members):
            raise ViolationError(f"liveness: group {group} in sync {config.devices()} of {config.members}")
        states = []
        for who in config.in_sync:
            node = self.nodes[self.numbers[who.device]]
            assert node.core is not None
            held = node.core.groups[group]
            rows = node.objects.applied.get(group, {})
            states.append((held.commit, held.tables.encode(), sorted(rows.items())))
            self._replay(node, group)
        if any(state != states[0] for state in states):
            raise ViolationError(f"convergence: in-sync members of group {group} differ")

    def _replay(self, node: Node, group: int) -> None:
        """The checkpoint and the log behind it must give the state."""
        assert node.core is not None
        held = node.core.groups[group]
        replayed = Objects(node.disk, stubborn=False)
        tables = type(held.tables)(held.tables.session_limit, held.tables.lock_limit)
        tables.load(node.disk.bases[group].tables if group in node.disk.bases else b"")
        for entry in held.log.between(held.base_n + 1, held.commit):
            tables.apply(0.0, entry, replayed)
        if (
            replayed.applied.get(group, {}) != node.objects.applied.get(group, {})
            or tables.encode() != held.tables.encode()
        ):
            raise ViolationError(f"convergence: base and log of group {group} do not give its state")


def describe(m: Any) -> str:
    """One line for a trace; the same in every process."""
    if hasattr(m, "appends"):
        runs = [(a[0], a[1], a[2], a[3], [(e.epoch, e.n, e.op, e.name) for e in a[4]]) for a in m.appends]
        return f"Frame {m.incarnation} {runs}"
    if isinstance(m, ConfigIs):
        return f"ConfigIs {m.group} {m.config}"
    return str(m)
