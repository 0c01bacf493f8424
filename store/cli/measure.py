"""Loops that measure: operations a second, latencies, and the CPU that every process spent on them."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

OWN: Final = "client"


class Result(NamedTuple):
    """One row. Latencies in microseconds; CPU in microseconds per operation, by process."""

    name: str
    depth: int
    size: int  # bytes of one operation
    operations: int
    seconds: float
    p50: float
    p99: float
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        return self.operations / self.seconds

    @property
    def mib_per_second(self) -> float:
        return self.rate * self.size / (1 << 20)

    @property
    def server_cpu(self) -> float:
        return sum(spent for name, spent in self.cpu.items() if name != OWN)


class Processors:
    """CPU time of this process and of the cluster's, where they run on this machine."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = dict(processes)

    def read(self) -> dict[str, float]:
        """Seconds so far, by name."""
        spent = {OWN: time.process_time()}
        for name, process in self._processes.items():
            total = 0
            for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    total += int(task.read_text().split()[0])  # nanoseconds on a processor
            spent[name] = total / 1e9
        return spent


class Stopwatch:
    """Collects what one measurement needs; `result` sums it up."""

    def __init__(self, processors: Processors, seconds: float) -> None:
        self._processors = processors
        self._before = processors.read()
        self.began = time.perf_counter()
        self.ends = self.began + seconds
        self.latencies: list[float] = []

    def result(self, name: str, depth: int, size: int) -> Result:
        took = time.perf_counter() - self.began
        after = self._processors.read()
        latencies = sorted(self.latencies)
        count = max(1, len(latencies))
        cpu = {each: (after[each] - self._before[each]) * 1e6 / count for each in after}
        middle, tail = (
            (latencies[count // 2], latencies[min(count - 1, count * 99 // 100)]) if latencies else (0.0, 0.0)
        )
        return Result(name, depth, size, len(latencies), took, middle * 1e6, tail * 1e6, cpu)


def one_after_the_other(watch: Stopwatch, operate: Callable[[], None]) -> None:
    """Depth 1: the next begins when the last has ended."""
    now = time.perf_counter()
    while now < watch.ends:
        operate()
        after = time.perf_counter()
        watch.latencies.append(after - now)
        now = after


async def many_at_once(watch: Stopwatch, depth: int, operate: Callable[[], Awaitable[object]]) -> None:
    """`depth` of them in flight until the time is over."""

    async def worker() -> None:
        now = time.perf_counter()
        while now < watch.ends:
            await operate()
            after = time.perf_counter()
            watch.latencies.append(after - now)
            now = after

    async with asyncio.TaskGroup() as group:
        for _ in range(depth):
            group.create_task(worker())
