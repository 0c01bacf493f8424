"""`make bench`: one table of what this machine's disk, nbdkit alone, our NBD gateway and our native client do.

Everything runs here and now, one after the other: the raw disk and the RAM disk beside our figures say what the machine
and the NBD plugin interface allow. fio drives the first three; `store bench` the native client. Three copies, sealed,
all features on. CPU is what the server processes spent per operation (the gateway and all daemons together).
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
STORE: Final = Path(sys.executable).with_name("store")
AREA: Final = "128M"
CLEAN: Final = {"PATH": "/usr/bin:/bin"}  # nbdkit must embed the system's Python, whatever is active here


class Test(NamedTuple):
    name: str
    rw: str
    block: str
    depth: int
    durable: bool
    aim_nbd: float  # per second, or MiB/s for large blocks
    aim_native: float

    @property
    def large(self) -> bool:
        return self.block == "1M"


TESTS: Final = [
    Test("4 KiB read", "randread", "4k", 1, False, 9_000, 12_000),
    Test("4 KiB read", "randread", "4k", 16, False, 22_000, 40_000),
    Test("4 KiB write, unstable", "randwrite", "4k", 1, False, 3_500, 4_000),
    Test("4 KiB write, unstable", "randwrite", "4k", 16, False, 10_000, 18_000),
    Test("4 KiB write, durable", "randwrite", "4k", 1, True, 1_500, 2_000),
    Test("4 KiB write, durable", "randwrite", "4k", 16, True, 6_000, 10_000),
    Test("1 MiB read", "read", "1M", 8, False, 1_300, 1_300),
    Test("1 MiB write, unstable", "write", "1M", 8, False, 300, 300),
]


class Figure(NamedTuple):
    value: float  # per second, or MiB/s
    cpu: float | None  # microseconds of the servers per operation


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure this machine and a cluster on it.")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each figure")
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="where to put the disks: not on a RAM disk")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if shutil.which("fio") is None or shutil.which("nbdkit") is None:
        print("bench: fio and nbdkit are needed: tools/setup test installs them", file=sys.stderr)
        return 1
    given.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.dir, prefix="bench-") as scratch:
        place = Path(scratch)
        columns = {"raw disk": raw_disk(place, given.seconds), "RAM disk, nbdkit": ram_disk(place, given.seconds)}
        with cluster(place / "cluster") as state:
            columns["NBD"] = our_nbd(state, given.seconds)
            columns["native"] = native(place / "cluster", given.seconds)
    if given.json:
        print(json.dumps({name: [figure._asdict() for figure in column] for name, column in columns.items()}, indent=2))
    else:
        show(columns)
    return 0


# --- what is measured ------------------------------------------------------------------------------------------------


def raw_disk(place: Path, seconds: float) -> list[Figure]:
    """A file on the same file system, without the page cache."""
    target = ["--ioengine=libaio", "--direct=1", f"--filename={place}/raw"]
    return [fio(test, [*target, f"--size={AREA}"], seconds, []) for test in TESTS]


def ram_disk(place: Path, seconds: float) -> list[Figure]:
    sock = place / "ram.sock"
    server = subprocess.Popen(
        ["nbdkit", "-f", "-U", str(sock), "python", str(ROOT / "tools/ramdisk.py")], env=CLEAN, cwd="/"
    )
    try:
        await_path(sock, server)
        target = ["--ioengine=nbd", f"--uri=nbd+unix:///?socket={sock}", f"--size={AREA}"]
        return [fio(test, target, seconds, [server.pid]) for test in TESTS]
    finally:
        server.terminate()
        server.wait(10)


def our_nbd(state: dict[str, Any], seconds: float) -> list[Figure]:
    uri = f"nbd+unix:///bench?socket={state['nbd_socket']}"
    servers = [process for name, process in state["processes"].items() if name != "up"]
    target = ["--ioengine=nbd", f"--uri={uri}", f"--size={AREA}"]
    fill = ["fio", "--name=fill", "--rw=write", "--bs=1M", "--iodepth=4", *target]
    subprocess.run(fill, check=True, capture_output=True)
    return [fio(test, target, seconds, servers) for test in TESTS]


def native(directory: Path, seconds: float) -> list[Figure]:
    command: list[str | Path] = [
        STORE,
        "--config",
        directory / "client.toml",
        "bench",
        "--seconds",
        str(seconds),
        "--json",
    ]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    figures = []
    for test in TESTS:
        row = next(row for row in rows if row["what"] == test.name and row["depth"] == test.depth)
        cpu = sum(spent for name, spent in row["cpu_us_per_operation"].items() if name != "client")
        figures.append(Figure(row["mib_per_second"] if test.large else row["per_second"], cpu))
    return figures


def fio(test: Test, target: list[str], seconds: float, servers: list[int]) -> Figure:
    """One run. A durable write is followed by a flush; depth 16 is then sixteen writers, each waiting for its own."""
    print(f"bench: {target[0].removeprefix('--ioengine=')}: {test.name}, depth {test.depth}", file=sys.stderr)
    command = ["fio", "--name=bench", f"--rw={test.rw}", f"--bs={test.block}", f"--runtime={seconds}", "--time_based"]
    command += ["--output-format=json", "--group_reporting", "--thread", "--randseed=7", "--norandommap", *target]
    if test.durable:
        command += ["--fsync=1", f"--numjobs={test.depth}", "--iodepth=1"]
    else:
        command += [f"--iodepth={test.depth}"]
    before = processor_seconds(servers)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    spent = processor_seconds(servers) - before
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["read" if "read" in test.rw else "write"]
    value = side["bw_bytes"] / (1 << 20) if test.large else side["iops"]
    return Figure(value, spent * 1e6 / max(1, side["total_ios"]) if servers else None)


def processor_seconds(processes: list[int]) -> float:
    """User and system time so far, of threads that have ended too (nbdkit's end with each connection)."""
    ticks = 0
    for process in processes:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# --- the cluster -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[dict[str, Any]]:
    """Three daemons, three copies, one image; ends with Ctrl-C."""
    command: list[str | Path] = [
        STORE,
        "up",
        "--dir",
        directory,
        "--port-base",
        str(free_base()),
        "--image",
        f"bench={AREA}",
    ]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert up.stdout is not None
        if "ready" not in up.stdout.readline():
            raise SystemExit("bench: the cluster did not start")
        yield json.loads((directory / "cluster.json").read_bytes())
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)


def free_base() -> int:
    """A port with room above it; `store up` says so if one of them is taken after all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return 20_000 + int(probe.getsockname()[1]) % 10_000


def await_path(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("bench: nbdkit did not start")
        time.sleep(0.02)


# --- the table -------------------------------------------------------------------------------------------------------


def show(columns: dict[str, list[Figure]]) -> None:
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} processors, load {load:.1f}; 4 KiB rows per second, 1 MiB rows MiB/s; CPU us per operation"
    )
    print(
        f"{'':24}{'depth':>6}{'raw disk':>11}{'RAM disk':>11}{'NBD':>11}{'aim':>8}{'of raw':>8}{'of RAM':>8}{'CPU':>7}"
        f"{'native':>11}{'aim':>8}{'of raw':>8}{'CPU':>7}"
    )
    for place, test in enumerate(TESTS):
        raw, ram, nbd, own = (columns[name][place] for name in ("raw disk", "RAM disk, nbdkit", "NBD", "native"))
        print(
            f"{test.name:24}{test.depth:>6}{raw.value:>11,.0f}{ram.value:>11,.0f}"
            f"{nbd.value:>11,.0f}{test.aim_nbd:>8,.0f}{ratio(nbd, raw)}{ratio(nbd, ram)}{nbd.cpu or 0:>7,.0f}"
            f"{own.value:>11,.0f}{test.aim_native:>8,.0f}{ratio(own, raw)}{own.cpu or 0:>7,.0f}"
        )


def ratio(figure: Figure, base: Figure) -> str:
    return f"{figure.value / base.value:>8.2f}" if base.value else f"{'-':>8}"


if __name__ == "__main__":
    sys.exit(main())
