"""Processes of a test: started in a group of their own, written about to files, ended by their ids."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

END_S = 10.0


class Processes:
    """Everything one test started. Output goes to files named after the program, shown when a test fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command`; stdout and stderr go to `output(name)`."""
        with open(self.output(name), "ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def output(self, name: str) -> Path:
        return self._directory / f"{name}.out"

    def end(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process and wait; kill its whole group if it does not end. Returns its exit code."""
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait(END_S)

    def end_all(self) -> None:
        """Last started, first ended; then what is left of their groups."""
        for process in reversed(self._running):
            self.end(process)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._running.clear()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `condition()`; raises TimeoutError naming `what`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
