"""What every test may use: free ports, processes that end with the test, and a summary of what was skipped and why."""

import contextlib
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import Processes

# Below the range that kernels give to outgoing connections, so that nothing takes a port between the look and the use.
FIRST_PORT, LAST_PORT = 12_000, 32_000


def _all_free(ports: list[int]) -> bool:
    with contextlib.ExitStack() as held:
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                sock = held.enter_context(socket.socket(socket.AF_INET, kind))
                try:
                    sock.bind(("127.0.0.1", port))
                except OSError:
                    return False
    return True


@pytest.fixture
def free_ports() -> Callable[[int], int]:
    """`free_ports(count)`: the first of `count` neighbouring ports that are free, for TCP and UDP alike."""

    def find(count: int) -> int:
        for _ in range(100):
            first = random.randrange(FIRST_PORT, LAST_PORT - count)
            if _all_free(list(range(first, first + count))):
                return first
        raise RuntimeError(f"no {count} neighbouring free ports between {FIRST_PORT} and {LAST_PORT}")

    return find


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes; whatever still runs at the end of the test is ended, by its own id."""
    running = Processes(tmp_path)
    yield running
    running.end_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skipped test is not a passed one: say how many there were and for what reasons."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    total = sum(reasons.values())
    terminalreporter.section(f"skipped: {total}", sep="-", bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5d}  {reason}")


def pytest_sessionstart() -> None:
    """Turn a plain SIGTERM into an orderly end, so that fixtures still stop what they started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
