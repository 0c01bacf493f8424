"""A daemon that falls silent, and a master that is away: I/O goes on, nothing is lost, nobody is told of an error."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from store.client.client import Client
from store.client.config import load_config
from store.client.pool import Pool
from tests.processes import wait_for
from tests.system.local import LocalCluster

WRITERS = 12
FAILOVER_S = 12.0  # what is promised with the default lease
SILENCE_S = 14.0
AWAY_S = 5.0


class Load:
    """Writers that overwrite their own objects all over the groups, and remember what was acknowledged."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.acknowledged: dict[str, bytes] = {}
        self.slowest = 0.0
        self.writes = 0

    async def run(self, ended: asyncio.Event) -> None:
        await asyncio.gather(*(self._write(number, ended) for number in range(WRITERS)))

    async def _write(self, number: int, ended: asyncio.Event) -> None:
        chance, turn = random.Random(number), 0
        while not ended.is_set():
            turn += 1
            name, value = f"{number}.{chance.randrange(40)}", f"{turn:08d}".encode()
            began = time.monotonic()
            await self._pool.write(name, value)  # raises if the cluster gives up
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.acknowledged[name] = value
            self.writes += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.01)

    async def check(self) -> None:
        for name, value in self.acknowledged.items():
            assert await self._pool.read(name) == value, name


async def under_load(cluster: LocalCluster, trouble: Callable[[], Awaitable[None]]) -> Load:
    """Writes before, during and after the trouble; then reads everything back."""
    async with await Client.connect(load_config(cluster.config)) as client:
        load, ended = Load(client.pool("main")), asyncio.Event()
        running = asyncio.create_task(load.run(ended))
        await asyncio.sleep(1)
        await trouble()
        await asyncio.sleep(1)
        ended.set()
        await running
        await load.check()
    return load


def test_io_goes_on_while_a_daemon_is_silent_and_it_comes_back(idle_cluster: LocalCluster) -> None:
    """Stopped, not killed: nothing tells the others; only the leases do. It wakes up believing it is primary."""
    cluster = idle_cluster
    cluster.start("--no-nbd")
    victim = cluster.process("daemon2")

    async def trouble() -> None:
        os.kill(victim, signal.SIGSTOP)
        try:
            await asyncio.sleep(SILENCE_S)
        finally:
            os.kill(victim, signal.SIGCONT)

    load = asyncio.run(under_load(cluster, trouble))
    assert load.slowest < FAILOVER_S, f"the longest write took {load.slowest:.1f} s\n{cluster.logs()}"
    print(f"{load.writes} writes, the longest took {load.slowest:.1f} s")
    cluster.await_well()
    status = cluster.json("status")
    assert all(device["groups_in_sync"] == device["groups"] for device in status["devices"])


def test_running_clients_and_daemons_need_no_master(idle_cluster: LocalCluster) -> None:
    cluster = idle_cluster
    cluster.start("--no-nbd")
    master = cluster.process("master")

    async def trouble() -> None:
        os.kill(master, signal.SIGSTOP)
        try:
            await asyncio.sleep(AWAY_S)
        finally:
            os.kill(master, signal.SIGCONT)

    load = asyncio.run(under_load(cluster, trouble))
    assert load.slowest < AWAY_S / 2, "writes waited for the master"


def test_a_killed_master_comes_back_with_everything(idle_cluster: LocalCluster) -> None:
    cluster = idle_cluster
    cluster.start("--no-nbd")
    cluster.store("pool", "create", "more", "--replicas", "2", "--groups", "8")
    before = cluster.json("pool", "ls")
    killed = cluster.process("master")
    cluster.kill("master")
    wait_for(lambda: cluster.state()["processes"].get("master", killed) != killed, 20, "the master started again")
    cluster.await_well()
    assert cluster.json("pool", "ls") == before
    cluster.store("write", "--pool", "more", "o", "--data-literal", "x")
