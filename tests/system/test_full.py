"""A full device: a clear refusal, nothing lost, and deleting makes room."""

from collections.abc import Callable
from pathlib import Path

from tests.processes import Processes, wait_for
from tests.system.local import STORE, run_store

MIB = 1 << 20
CAPACITY_MIB = 16


def test_full_disk(processes: Processes, tmp_path: Path, free_ports: Callable[[int], int]) -> None:
    port = free_ports(2)
    here = ["--storage-daemon", f"127.0.0.1:{port}", "--pool", "p"]
    environment = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path)}
    processes.start(
        "daemon",
        [STORE, "file-store", "--dir", tmp_path / "disk", "--listen-address", f"127.0.0.1:{port}", "--journal", "32M",
         "--capacity", f"{CAPACITY_MIB}M"],
        environment=environment,
    )  # fmt: skip
    wait_for(lambda: str(port) in processes.output("daemon").read_text(), 10, "the daemon")

    def write(name: str) -> tuple[int, str]:
        data = name.encode() * (2 * MIB // len(name))
        done = run_store(["write", *here, name, "--data-file", "-"], environment, data)
        return done.returncode, done.stderr.decode()

    written: list[str] = []
    refused = ""
    for number in range(CAPACITY_MIB):
        code, said = write(f"object{number}")
        if code:
            refused = said
            break
        written.append(f"object{number}")
    assert refused.startswith("store: ") and "full" in refused and refused.count("\n") == 1, refused
    assert len(written) >= 3
    for name in written:
        data = run_store(["read", *here, name], environment).stdout
        assert data == name.encode() * (2 * MIB // len(name))
    for name in written[:3]:
        assert run_store(["delete", *here, name], environment).returncode == 0
    wait_for(lambda: write("afterwards")[0] == 0, 30, "room after deleting")
