"""What the commands print and do, beyond the tour."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

from tests.processes import wait_for
from tests.system.local import LocalCluster

MASTER, FIRST_DAEMON, NBD = 20, 21, 24  # places of metrics above the port base


def test_objects(cluster: LocalCluster, tmp_path: Path) -> None:
    """Whole, in part, from files and pipes, past the end, gone."""
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    cluster.store("write", "--pool", "main", "big", "--data-file", tmp_path / "in")
    cluster.store("read", "--pool", "main", "big", "--output", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    cluster.store("write", "--pool", "main", "big", "--offset", "1000", "--data-file", "-", stdin=b"middle")
    part = cluster.store("read", "--pool", "main", "big", "--offset", "998", "--length", "10").stdout
    assert part == data[998:1000] + b"middle" + data[1006:1008]
    cluster.store("write", "--pool", "main", "gap", "--offset", "5000", "--data-literal", "end")
    assert cluster.store("read", "--pool", "main", "gap").stdout == bytes(5000) + b"end"
    cluster.store("write", "--pool", "main", "gap", "--data-literal", "short")
    assert cluster.store("read", "--pool", "main", "gap").stdout == b"short"
    assert cluster.json("stat", "--pool", "main", "gap")["size"] == 5
    cluster.store("write", "--pool", "main", "empty", "--data-literal", "")
    assert cluster.store("read", "--pool", "main", "empty").stdout == b""
    assert [row["name"] for row in cluster.json("ls", "--pool", "main")] == ["big", "empty", "gap"]
    assert cluster.store("ls", "--pool", "main", "--prefix", "b").stdout == b"big\n"
    cluster.store("delete", "--pool", "main", "big")
    assert b"no such object" in cluster.store("read", "--pool", "main", "big", code=1).stderr


def test_pools_are_apart(cluster: LocalCluster) -> None:
    cluster.store("pool", "create", "other", "--replicas", "2", "--groups", "16")
    for pool in ("main", "other"):
        cluster.store("write", "--pool", pool, "same", "--data-literal", f"in {pool}")
    for pool in ("main", "other"):
        assert cluster.store("read", "--pool", pool, "same").stdout == f"in {pool}".encode()
    pools = {pool["name"]: pool for pool in cluster.json("pool", "ls")}
    assert (pools["other"]["replicas"], pools["other"]["groups"]) == (2, 16)
    assert len(cluster.json("locate", "--pool", "other", "same")["devices"]) == 2
    cluster.store("pool", "rm", "other", code=1)
    cluster.store("pool", "rm", "other", "--force")
    assert [pool["name"] for pool in cluster.json("pool", "ls")] == ["main"]


def test_images(cluster: LocalCluster) -> None:
    cluster.store("image", "create", "book", "--size", "100M")
    info = cluster.json("image", "info", "book")
    assert (info["size"], info["pool"], info["writer"]) == (100 << 20, "main", None)
    cluster.store("image", "resize", "book", "--size", "200M")
    assert cluster.json("image", "ls")[0]["size"] == 200 << 20
    assert b"--shrink" in cluster.store("image", "resize", "book", "--size", "50M", code=1).stderr
    cluster.store("image", "resize", "book", "--size", "50M", "--shrink")
    assert cluster.json("image", "info", "book")["size"] == 50 << 20
    cluster.store("image", "rm", "book")
    assert cluster.json("image", "ls") == []


def test_status(cluster: LocalCluster) -> None:
    """Well, then degraded while a daemon is away, and what to do about it; well again by itself."""
    status = cluster.json("status")
    assert status["health"] == "well" and len(status["devices"]) == 3 and status["findings"] == []
    stopped = cluster.process("daemon3")
    os.kill(stopped, signal.SIGSTOP)  # silent, so `store up` does not start another
    try:
        wait_for(lambda: cluster.json("status")["health"] == "degraded", 30, "degraded")
        explained = cluster.store("status", "--explain").stdout.decode()
        assert "fewer than 3 copies" in explained and "catches up by itself" in explained
        began = time.monotonic()
        assert b"not well after 1 s" in cluster.store("status", "--wait", "1", code=1).stderr
        assert time.monotonic() - began < 4
    finally:
        os.kill(stopped, signal.SIGCONT)
    cluster.await_well()


def test_bench_reports(cluster: LocalCluster) -> None:
    rows = cluster.json("bench", "--seconds", "0.3")
    assert {(row["what"], row["depth"]) for row in rows} >= {("4 KiB read", 1), ("4 KiB write, durable", 16)}
    assert all(row["per_second"] > 0 and row["cpu_us_per_operation"]["daemon1"] >= 0 for row in rows)
    assert cluster.json("image", "ls") == []


def test_joining_and_rights(cluster: LocalCluster, tmp_path: Path) -> None:
    """A client that joins with a ticket for one pool reads and writes there and nowhere else."""
    cluster.store("pool", "create", "theirs", "--replicas", "3", "--groups", "16")
    ticket = cluster.store("join", "--new", "client", "--name", "guest", "--pool", "theirs").stdout.decode().strip()
    cluster.store("join", ticket, "--dir", tmp_path / "guest")
    guest = ["--config", str(tmp_path / "guest/client.toml")]
    cluster.store(*guest, "write", "--pool", "theirs", "mine", "--data-literal", "x")
    assert cluster.store(*guest, "read", "--pool", "theirs", "mine").stdout == b"x"
    refused = cluster.store(*guest, "write", "--pool", "main", "not-mine", "--data-literal", "x", code=1)
    assert b"do not allow" in refused.stderr
    assert cluster.store(*guest, "pool", "create", "more", code=1).stderr.count(b"\n") == 1
    again = cluster.store("join", ticket, "--dir", tmp_path / "second", code=1)
    assert again.stderr.startswith(b"store: ")
    assert cluster.json("ls", "--pool", "main") == []


def test_metrics(idle_cluster: LocalCluster) -> None:
    """Each program's own page; reads and writes rise where they happened."""
    idle_cluster.start("--metrics", "--image", "book=64M")
    for number in range(12):
        idle_cluster.store("write", "--pool", "main", f"o{number}", "--data-literal", "x")
        idle_cluster.store("read", "--pool", "main", f"o{number}")
    pages = [_scrape(idle_cluster, FIRST_DAEMON + place) for place in range(3)]
    assert sum(_value(page, "reads_total") for page in pages) >= 12
    assert sum(_value(page, "writes_total") for page in pages) >= 12
    for name in ("journal_syncs_total", "invalid_requests_total", "auth_failures_total", "replays_total"):
        assert all(f"{name} " in page for page in pages), name
    assert "# HELP" in _scrape(idle_cluster, MASTER)
    assert "# HELP" in _scrape(idle_cluster, NBD)


def _scrape(cluster: LocalCluster, place: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.port_base + place}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def _value(page: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)


def test_json_is_json_everywhere(cluster: LocalCluster) -> None:
    cluster.store("write", "--pool", "main", "o", "--data-literal", "x")
    cluster.store("image", "create", "book", "--size", "10M")
    for words in ("status", "device ls", "pool ls", "image ls", "image info book", "ls --pool main",
                  "stat --pool main o", "locate --pool main o"):  # fmt: skip
        json.loads(cluster.store(*words.split(), "--json").stdout)
