"""What people get wrong: one clear line on stderr, the right exit code, within two seconds, and nothing changed."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes import Processes
from tests.system.local import STORE, LocalCluster, run_store

SOON_S = 2.0


class Wrong(NamedTuple):
    arguments: str  # words; {tmp} is a scratch directory
    says: str
    code: int = 1


TABLE = [
    Wrong("read --pool nosuch o", "nosuch"),
    Wrong("write --pool nosuch o --data-literal x", "nosuch"),
    Wrong("read --pool main nosuch", "no such object"),
    Wrong("stat --pool main nosuch", "no such object"),
    Wrong("delete --pool main nosuch", "no such object"),
    Wrong("read --pool main there --offset 6", "past its end"),
    Wrong("read --pool main there --offset 4194305", "4194304"),
    Wrong(f"write --pool main {'n' * 1025} --data-literal x", "1 to 1024 bytes"),
    Wrong("write --pool main there --data-file {tmp}/large", "4194304"),
    Wrong("write --pool main there --offset 4194304 --data-literal x", "4194304"),
    Wrong("write --pool main there --data-file {tmp}/nosuch", "No such file"),
    Wrong("write --pool main there", "--data-literal", 2),
    Wrong("read --pool main there --offset -1", "--offset", 2),
    Wrong("read there", "--pool", 2),
    Wrong("reed there", "No such command", 2),
    Wrong("pool create main --replicas 3", "main"),
    Wrong("pool create wide --replicas 4", "4"),
    Wrong("pool create none --replicas 0", "1 to 8 copies"),
    Wrong("pool rm nosuch", "nosuch"),
    Wrong("image create book --size large", "not a size"),
    Wrong("image create book --size 0", "size"),
    Wrong("image info nosuch", "nosuch"),
    Wrong("image rm nosuch", "nosuch"),
    Wrong("attach nosuch", "nosuch"),
    Wrong("detach nosuch", "not attached"),
    Wrong("nbd --image book", "--socket", 2),
    Wrong("join join1.garbage", "join ticket"),
    Wrong("--config {tmp}/nosuch.toml status", "nosuch.toml"),
    Wrong("--config {tmp}/bad.toml status", "bad.toml"),
    Wrong("read --storage-daemon nonsense --pool main o", "HOST:PORT"),
    Wrong("read --storage-daemon 127.0.0.1:1 --pool main o", "127.0.0.1:1"),
]


def check(arguments: list[str], says: str, code: int, environment: dict[str, str]) -> None:
    began = time.monotonic()
    done = run_store(arguments, environment)
    took = time.monotonic() - began
    text = done.stderr.decode()
    assert done.returncode == code, done
    assert says in text, done
    assert done.stdout == b""
    assert took < SOON_S, f"{took:.1f} s"
    assert "Traceback" not in text
    if code == 1:
        assert text.startswith("store: ") and text.count("\n") == 1, text


def test_table(cluster: LocalCluster, tmp_path: Path) -> None:
    """One cluster for the whole table: afterwards it holds exactly what it held before."""
    (tmp_path / "large").write_bytes(bytes(4 * 1024 * 1024 + 1))
    (tmp_path / "bad.toml").write_text("master = 5\n")
    cluster.store("write", "--pool", "main", "there", "--data-literal", "bytes")
    before = (cluster.json("ls", "--pool", "main"), cluster.json("pool", "ls"), cluster.json("image", "ls"))
    failures = []
    for wrong in TABLE:
        try:
            words = wrong.arguments.replace("{tmp}", str(tmp_path)).split(" ")
            check(words, wrong.says, wrong.code, cluster.environment())
        except AssertionError as error:
            failures.append(f"store {wrong.arguments[:60]}: {str(error)[:600]}")
    check(["read", "--pool", "main", ""], "1 to 1024 bytes", 1, cluster.environment())
    assert not failures, "\n\n".join(failures)
    assert before[0] == cluster.json("ls", "--pool", "main")
    assert [pool["name"] for pool in before[1]] == [pool["name"] for pool in cluster.json("pool", "ls")]
    assert before[2] == cluster.json("image", "ls")


def test_wrong_key_file(cluster: LocalCluster, tmp_path: Path) -> None:
    text = cluster.config.read_text()
    for place, option in (("tls", "ca"),):
        run_store(["ca", "init", "--dir", str(tmp_path / place)], cluster.environment())
        run_store(["ca", "issue", option, "--dir", str(tmp_path / place)], cluster.environment())
    run_store(["ca", "issue", "stranger", "--role", "client", "--dir", str(tmp_path / "tls")], cluster.environment())
    stranger = tmp_path / "stranger.toml"
    lines = [line for line in text.splitlines() if line.split(" ")[0] not in ("key", "cert", "ca")]
    own = {
        line.split(" ")[0]: cluster.config.parent / line.split('"')[1] for line in text.splitlines() if '= "' in line
    }
    lines += [f'ca = "{own["ca"]}"', f'cert = "{own["cert"]}"', f'key = "{tmp_path}/tls/stranger.key"']
    stranger.write_text("\n".join(lines))
    check(["--config", str(stranger), "status"], "stranger.key is not the private key of", 1, cluster.environment())
    foreign = tmp_path / "foreign.toml"
    lines[-2:] = [f'cert = "{tmp_path}/tls/stranger.crt"', f'key = "{tmp_path}/tls/stranger.key"']
    foreign.write_text("\n".join(lines))
    check(["--config", str(foreign), "status"], "certificate", 1, cluster.environment())


def test_directory_of_another_cluster(cluster: LocalCluster, processes: Processes, tmp_path: Path) -> None:
    """A disk that belongs to another cluster is refused by name, and stays as it was."""
    cluster.stop()
    other = tmp_path / "other"
    second = LocalCluster(processes, other, cluster.port_base)
    second.start("--no-nbd")
    second.stop()
    moved = other / "daemon1"
    disk = cluster.directory / "daemon1"
    for name in ("daemon.crt", "daemon.key", "ca.crt"):
        (disk / name).write_bytes((moved / name).read_bytes())
    process = processes.start("wrong", [
        STORE, "file-store", "--dir", disk, "--master", f"127.0.0.1:{cluster.port_base}",
        "--listen-address", "127.0.0.1:0",
    ])  # fmt: skip
    assert process.wait(5) == 1
    said = processes.output("wrong").read_text()
    assert "cluster" in said and "Traceback" not in said


@pytest.mark.parametrize("kind", ["file", "foreign"])
def test_up_in_a_directory_that_is_something_else(
    idle_cluster: LocalCluster, processes: Processes, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("a file")
    else:
        place.mkdir()
        (place / "thesis.txt").write_text("do not touch")
    up = processes.start("up", [STORE, "up", "--dir", place, "--port-base", str(idle_cluster.port_base)])
    assert up.wait(5) == 1
    said = processes.output("up").read_text()
    assert str(place) in said and said.count("\n") == 1, said
