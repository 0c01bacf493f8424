"""A cluster started by `store up` in a directory of its own, and the `store` command pointed at it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
STORE = Path(sys.executable).with_name("store")
PORTS = 256
READY_S = 30.0


class LocalCluster:
    """Start, ask, hurt and stop a cluster of one machine."""

    def __init__(self, processes: Processes, directory: Path, port_base: int) -> None:
        self._processes = processes
        self.directory, self.port_base = directory, port_base
        self._up: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self.ready_after = 0.0

    @property
    def config(self) -> Path:
        return self.directory / "client.toml"

    def start(self, *options: str) -> None:
        """`store up`; returns when it says that the cluster is ready. Raises AssertionError otherwise."""
        self._starts += 1
        name = self._output_name()
        began = time.monotonic()
        command = [STORE, "up", "--dir", self.directory, "--port-base", str(self.port_base), *options]
        self._up = up = self._processes.start(name, command)
        output = self._processes.output(name)
        while "ready after" not in output.read_text():
            assert up.poll() is None, output.read_text()
            assert time.monotonic() - began < READY_S, output.read_text() + self.logs()
            time.sleep(0.01)
        self.ready_after = time.monotonic() - began

    def stop(self) -> str:
        """Ctrl-C. Returns what `store up` said in its life."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        assert self._up.wait(30) == 0, self.said()
        return self.said()

    def said(self) -> str:
        return self._processes.output(self._output_name()).read_text()

    def _output_name(self) -> str:
        return f"{self.directory.name}-up{self._starts}"

    def logs(self) -> str:
        """The last lines of every program's log."""
        logs = sorted((self.directory / "log").glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in logs)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.directory / "cluster.json").read_bytes())
        return state

    def process(self, name: str) -> int:
        """The process id of `master`, `daemon1`, …, `nbd` or `up`."""
        return int(self.state()["processes"][name])

    def kill(self, name: str) -> None:
        """kill -9; `store up` starts the program again."""
        os.kill(self.process(name), signal.SIGKILL)

    def kill_everything(self) -> None:
        """kill -9 of every process at once, `store up` included."""
        for number in self.state()["processes"].values():
            os.kill(number, signal.SIGKILL)
        assert self._up is not None
        self._up.wait(10)

    def uri(self, image: str) -> str:
        return f"nbd+unix:///{image}?socket={self.state()['nbd_socket']}"

    def environment(self) -> dict[str, str]:
        """For any process that should find this cluster and keep its attachments to itself."""
        path = f"{STORE.parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "STORE_CONFIG": str(self.config), "STORE_RUN": str(self.directory / "run"), "PATH": path}

    def store(
        self, *arguments: str | Path, stdin: bytes = b"", code: int = 0, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `store …` and expect this exit code."""
        done = run_store(arguments, self.environment(), stdin, timeout)
        assert done.returncode == code, f"store {' '.join(map(str, arguments))}: {done}\n{self.logs()}"
        return done

    def json(self, *arguments: str) -> Any:
        """What `store … --json` prints."""
        return json.loads(self.store(*arguments, "--json").stdout)

    def await_well(self, seconds: float = 60.0) -> None:
        """Until every group has all its copies."""
        self.store("status", "--wait", f"{seconds:g}", timeout=seconds + 10)


def run_store(
    arguments: Sequence[str | Path], environment: dict[str, str], stdin: bytes = b"", timeout: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line once, with nothing of this test's own configuration unless it is given."""
    command = [str(STORE), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=timeout, check=False)


def pss(process: int) -> int:
    """Proportional set size of a process in bytes: shared pages count by share, so a sum over processes is honest."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def family(process: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process] + [member for child in children for member in family(int(child))]
