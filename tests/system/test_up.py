"""`store up`: how soon, how small, how it ends and comes back."""

import socket
import time

from tests.processes import Processes, wait_for
from tests.system.local import STORE, LocalCluster, family, pss

READY_MAX_S = 5.0
MEMORY_MAX = 250 << 20
DAEMONS = ("daemon1", "daemon2", "daemon3")


def test_ready_within_five_seconds_and_small(idle_cluster: LocalCluster) -> None:
    """A whole cluster with its NBD gateway: time to the word `ready`, and memory when nothing happens."""
    idle_cluster.start("--image", "book=2G")
    assert idle_cluster.ready_after < READY_MAX_S
    assert idle_cluster.json("status")["health"] == "well"
    members = family(idle_cluster.process("up"))
    memory = sum(pss(member) for member in members)
    print(f"\nready after {idle_cluster.ready_after:.2f} s; PSS of {len(members)} processes {memory / 2**20:.0f} MiB")
    assert memory <= MEMORY_MAX


def test_one_configuration_file(cluster: LocalCluster) -> None:
    assert [path.name for path in cluster.directory.rglob("*.toml")] == ["client.toml"]


def test_stops_on_ctrl_c_and_resumes(cluster: LocalCluster) -> None:
    """What was written is there after a stop and a second `store up`; the devices are the same ones."""
    cluster.store("write", "--pool", "main", "kept", "--data-literal", "over the restart")
    before = {device["id"] for device in cluster.json("device", "ls")}
    running = family(cluster.process("up"))
    cluster.stop()
    wait_for(lambda: not any(_runs(number) for number in running), 5, "the end of every process")
    cluster.start()
    assert cluster.store("read", "--pool", "main", "kept").stdout == b"over the restart"
    assert {device["id"] for device in cluster.json("device", "ls")} == before


def test_a_program_that_dies_is_started_again(cluster: LocalCluster) -> None:
    for name in (*DAEMONS[:1], "master", "nbd"):
        old = cluster.process(name)
        cluster.kill(name)
        wait_for(lambda name=name, old=old: _changed(cluster, name, old), 10, f"another {name}")  # type: ignore[misc]
        assert f"{name} ended (signal 9); starting it again" in cluster.said()
    cluster.await_well()


def test_one_broken_disk_does_not_stop_the_others(cluster: LocalCluster) -> None:
    """A directory whose identity is damaged: said in one line, the rest serves what was written."""
    cluster.store("write", "--pool", "main", "kept", "--data-literal", "on the others")
    cluster.stop()
    (cluster.directory / "daemon2" / "device").write_text("scribbled over\n")
    cluster.start()
    assert "daemon2 ended at once, going on without it" in cluster.said()
    assert cluster.store("read", "--pool", "main", "kept").stdout == b"on the others"
    assert cluster.json("status")["health"] == "degraded"


def test_two_in_one_directory_are_refused(cluster: LocalCluster, processes: Processes) -> None:
    second = processes.start("second", [STORE, "up", "--dir", cluster.directory])
    assert second.wait(10) == 1
    said = processes.output("second").read_text()
    assert "runs in" in said and said.count("\n") == 1


def test_port_in_use_is_one_clear_line(idle_cluster: LocalCluster, processes: Processes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", idle_cluster.port_base + 10))
        taken.listen()
        began = time.monotonic()
        up = processes.start(
            "up", [STORE, "up", "--dir", idle_cluster.directory, "--port-base", str(idle_cluster.port_base)]
        )
        assert up.wait(10) == 1
        assert time.monotonic() - began < 2
    said = processes.output("up").read_text()
    assert "is in use" in said and "--port-base" in said and said.count("\n") == 1


def _changed(cluster: LocalCluster, name: str, old: int) -> bool:
    return cluster.state()["processes"].get(name, old) != old


def _runs(process: int) -> bool:
    try:
        family(process)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True
