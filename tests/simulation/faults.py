"""What may go wrong in a run, and when: drawn from the world's seed."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from master.core.authority import Authority
from store.ids import DeviceId, GroupId
from store.placement.config import GroupConfig

if TYPE_CHECKING:
    from tests.simulation.disk import Disk
    from tests.simulation.node import Node
    from tests.simulation.world import Address, World

FEATURES: Final = (
    "loss", "dup", "slow", "partition", "crash", "power", "blackout", "pause", "drift", "master_down", "restore",
    "old_image", "replace", "small_log", "small_table", "takeover", "min_write", "colocated", "slow_read",
    "far_master", "blink", "torn_tick",
)  # fmt: skip
FOUNDED: Final = 1.0  # until then nothing goes wrong
HEAL: Final = 20.0  # from then on nothing goes wrong
MASTER: Final = "M"


class Faults:
    def __init__(self, world: World) -> None:
        self.world = world
        self.cuts: list[tuple[float, float, set[tuple[Address, Address]]]] = []
        self.spoiled = False  # one device is rolled back or lost, never more
        self.snapshots: list[tuple[dict[GroupId, GroupConfig], dict[DeviceId, int]]] = []
        self.image: Disk | None = None

    def blocked(self, a: Address, b: Address) -> bool:
        now = self.world.now
        return any(start <= now < stop and (a, b) in pairs for start, stop, pairs in self.cuts)

    def _times(self, most: int) -> list[float]:
        rng = self.world.rng
        return [rng.uniform(FOUNDED + 0.5, HEAL - 3) for _ in range(rng.randint(1, most))]

    def plan(self) -> None:
        world = self.world
        rng, has, at = world.rng, world.has, world.at
        devices = list(world.members)
        if has("partition"):
            for t in self._times(3):
                self._cut(t, t + rng.uniform(0.5, 9))
        if has("crash"):
            for t in self._times(5):
                at(t, self.stop, rng.choice(devices), False, rng.choice((0.05, 0.5, 3, 8)))
        if has("power"):
            for t in self._times(4):
                at(t, self.stop, rng.choice(devices), True, rng.choice((0.05, 0.5, 3, 8)))
        if has("blackout"):
            for t in self._times(2):
                at(t, self._blackout)
        if has("pause"):
            for t in self._times(5):
                at(t, self._pause, rng.choice(devices), rng.choice((0.3, 2.2, 4, 7)))
        if has("blink"):  # every process crashes, the journals stay
            for t in self._times(2):
                for device in devices:
                    at(t + rng.uniform(0, 0.2), self.stop, device, False, rng.uniform(0.05, 1))
        self._plan_master(devices)
        at(HEAL, self._heal)

    def _plan_master(self, devices: list[int]) -> None:
        world = self.world
        rng, has, at = world.rng, world.has, world.at
        if has("master_down"):
            for t in self._times(2):
                at(t, self._set_master, False)
                at(t + rng.uniform(1, 10), self._set_master, True)
        if has("restore"):
            for t in self._times(3):
                at(t * 0.7 + 1.0, self._take_snapshot)
            at(rng.uniform(6, HEAL - 4), self._restore_master)
        if has("takeover"):
            for t in self._times(3):
                at(t, world.new_tenant)
        if has("old_image"):
            victim = rng.choice(devices)
            at(rng.uniform(1.5, 9), self._take_image, victim)
            at(rng.uniform(6, HEAL - 2.5), self._old_image, victim, rng.choice((0.1, 1, 6)))
        elif has("replace") and not has("restore"):
            at(rng.uniform(3, HEAL - 6), self._lose, rng.choice(devices[1:] if has("colocated") else devices))

    # ------------------------------------------------------------- network
    def _cut(self, start: float, stop: float) -> None:
        rng = self.world.rng
        names: list[Address] = [*self.world.members, MASTER]
        if rng.random() < 0.4:  # one link, perhaps one way
            a, b = rng.sample(names, 2)
            pairs = {(a, b)} | ({(b, a)} if rng.random() < 0.7 else set())
        else:  # one machine, perhaps with the clients
            a = rng.choice(names)
            others = [b for b in names if b != a]
            if rng.random() < 0.6:
                others += rng.sample(["r0", "r1", "r2", "r3", "i1", "i2"], rng.randint(2, 6))
            pairs = {(a, b) for b in others} | {(b, a) for b in others}
        self.cuts.append((start, stop, pairs))

    # ------------------------------------------------------------- devices
    def stop(self, device: int, power: bool, down: float) -> None:
        node, world = self.world.nodes[device], self.world
        if world.now >= HEAL:
            return
        if node.core is not None:
            world.log("power cut" if power else "crash", device, "for", down)
            node.kill(power)
        elif power:
            node.power_off()
        world.at(world.now + down, self._restart, node, node.life)

    def dies_inside(self) -> bool:
        """The process crashes between two effects of one tick."""
        world = self.world
        return world.has("torn_tick") and FOUNDED < world.now < HEAL - 1 and world.rng.random() < 0.004

    def _restart(self, node: Node, life: int) -> None:
        if node.life == life:
            node.start(node.booted is not False)

    def _blackout(self) -> None:
        rng = self.world.rng
        if self.world.now < HEAL:
            for device in self.world.members:
                self.stop(device, True, rng.choice((0.2, 1, 4)) * rng.uniform(0.5, 2))

    def _pause(self, device: int, span: float) -> None:
        node, world = self.world.nodes[device], self.world
        if node.core is not None and node.paused_until <= world.now < HEAL:
            world.log("pause", device, span)
            node.paused_until = world.now + span
            self.paused(node, span)

    def paused(self, node: Node, span: float) -> None:
        """CLOCK_BOOTTIME runs on (R10)."""

    def _take_image(self, device: int) -> None:
        self.image = self.world.nodes[device].disk.platter()

    def _may_spoil(self, device: int) -> bool:
        """At most one device per run is rolled back or lost, and never the only one that knows itself in sync."""
        world = self.world
        if self.spoiled or world.master.closing or world.now >= HEAL - 1:
            return False
        return all(self._another_knows(device, group) for group in world.master.configs)

    def _another_knows(self, device: int, group: GroupId) -> bool:
        """Else a master restored to an older state together with this fault would be two faults at one copy."""
        config = self.world.master.configs[group]
        others = [self.world.nodes[self.world.numbers[d]] for d in config.devices()]
        return any(node.number != device and node.disk.adopted(group) == config for node in others)

    def _forget_messages(self, device: int) -> None:
        """What the device had asked of the master is lost with it."""
        world = self.world
        world.queue[:] = [
            e for e in world.queue if not (e[2] == world.deliver and e[3][0] == device and e[3][1] == MASTER)
        ]
        heapq.heapify(world.queue)

    def _old_image(self, device: int, down: float) -> None:
        node, world = self.world.nodes[device], self.world
        if self.image is None or not self._may_spoil(device) or node.dead:
            return
        self.spoiled = True
        world.log("old image on", device)
        if node.core is not None:
            node.kill(True)
        node.life += 1
        self._forget_messages(device)
        node.disk, node.booted = self.image, False
        world.at(world.now + down, self._restart, node, node.life)

    def _lose(self, device: int) -> None:
        node, world = self.world.nodes[device], self.world
        if not self._may_spoil(device) or not world.master_is_up():
            return
        self.spoiled = True
        world.log("lost for ever", device)
        if node.core is not None:
            node.kill(True)
        node.dead, node.life = True, node.life + 1
        self._forget_messages(device)
        world.at(world.now + world.rng.uniform(0.2, 3), self._replace, device)

    def _replace(self, device: int) -> None:
        """The operator puts the spare device in its place, in every group."""
        world = self.world
        lost, spare = world.devices[device], world.devices[world.copies]
        for group, config in list(world.master.configs.items()):
            members = tuple(spare if d == lost else d for d in config.members)
            world.master.replace(group, members)
        world.master_effects()

    # -------------------------------------------------------------- master
    def _set_master(self, up: bool) -> None:
        if self.world.now < HEAL:
            self.world.master_up = up

    def _take_snapshot(self) -> None:
        master = self.world.master
        if not master.closing:
            self.snapshots.append((dict(master.configs), dict(master.incarnations)))

    def _restore_master(self) -> None:
        world = self.world
        if self.snapshots:
            configs, incarnations = world.rng.choice(self.snapshots)
            world.log("master restored to", configs)
            generation = world.master.generation
            world.master = Authority(configs, incarnations, generation)
            world.master.restore(generation + 1)
            world.master_effects()

    def _heal(self) -> None:
        world = self.world
        world.log("heal")
        self.cuts, world.master_up = [], True
        for node in world.nodes.values():
            node.paused_until = min(node.paused_until, world.now + 0.01)
            if node.core is None and not node.dead:
                node.life += 1
                node.start(node.booted is not False)
        world.at(world.now + 10, world.final_clients)
