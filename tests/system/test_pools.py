"""Pools come and go: what a removed pool held gives its space back, and its name may be used again."""

import os
from pathlib import Path

from tests.processes import wait_for
from tests.system.local import LocalCluster

MIB = 1 << 20


def used(cluster: LocalCluster) -> int:
    return sum(device["used"] for device in cluster.json("device", "ls"))


def counted(cluster: LocalCluster, name: str) -> tuple[int, int]:
    pool = next(pool for pool in cluster.json("pool", "ls") if pool["name"] == name)
    return pool["objects"], pool["bytes"]


def test_a_removed_pool_gives_its_space_back(idle_cluster: LocalCluster, tmp_path: Path) -> None:
    cluster = idle_cluster
    cluster.start("--no-nbd")
    cluster.store("write", "--pool", "main", "kept", "--data-literal", "still here")
    cluster.store("pool", "create", "scratch", "--replicas", "3", "--groups", "8")
    block = tmp_path / "block"
    block.write_bytes(os.urandom(2 * MIB))
    for number in range(8):
        cluster.store("write", "--pool", "scratch", f"o{number}", "--data-file", block)
    wait_for(lambda: used(cluster) > 3 * 15 * MIB, 40, "48 MiB in the data files")
    wait_for(lambda: counted(cluster, "scratch") == (8, 16 * MIB), 40, "eight objects counted")
    refused = cluster.store("pool", "rm", "scratch", code=1)
    assert b"force" in refused.stderr or b"holds" in refused.stderr, refused
    cluster.store("pool", "rm", "scratch", "--force")
    cluster.store("read", "--pool", "scratch", "o1", code=1)
    wait_for(lambda: used(cluster) < 3 * MIB, 40, "the space back")
    cluster.store("pool", "create", "scratch", "--replicas", "2", "--groups", "8")
    cluster.store("read", "--pool", "scratch", "o1", code=1)
    assert cluster.store("read", "--pool", "main", "kept").stdout == b"still here"
    cluster.await_well()
