"""The founding document's own command lines run as they were printed, typo included, with `store` for its program."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Processes, wait_for
from tests.system.local import STORE

MASTER = """store master \
    --peer-address 0.0.0.0:4000 \
    --peer-cert tls/master1.crt -peer-key tls/master1.key --peer-ca-cert tls/ca.crt \
    --listen-address 0.0.0.0:4010 \
    --listen-cert tls/master.crt --listen-key tls/master.key"""

FILE_STORE = """store file-store \
    --peer-address 0.0.0.0:4149 \
    --peer-cert tls/storage001.crt --peer-key tls/storage001.key --peer-ca-cert tls/ca.crt \
    --listen-address 0.0.0.0:4148 \
    --dir /tmp/storage"""

CLIENT = [
    'store -v write --storage-daemon 127.0.0.1:4148 --pool testpool testobj --data-literal "hello world"',
    "store -v write --storage-daemon 127.0.0.1:4148 --pool testpool passwd --data-file /etc/passwd",
    "store -v read --storage-daemon 127.0.0.1:4148 --pool testpool passwd --offset 20 --length 40",
]


def words(line: str) -> list[str]:
    """The line as a shell would cut it, with our program."""
    return [str(STORE) if word == "store" else word for word in shlex.split(line)]


def run(line: str, directory: Path) -> bytes:
    done = subprocess.run(words(line), cwd=directory, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the tls/ files of the document, made by our own tool."""
    for line in ("ca init", "ca issue master1", "ca issue master", "ca issue storage001"):
        run(f"store {line}", tmp_path)
    return tmp_path


def test_master_line(home: Path, processes: Processes) -> None:
    process = processes.start("master", words(MASTER), directory=home)
    output = processes.output("master")
    wait_for(lambda: "4000" in output.read_text() and "4010" in output.read_text(), 10, "both addresses in the log")
    assert process.poll() is None, output.read_text()
    assert processes.end(process) == 0


def test_file_store_and_client_lines(home: Path, processes: Processes) -> None:
    """Without a master: served to this user on this machine alone, said so, kept over kill -9."""
    storage = Path("/tmp/storage")
    if storage.exists():
        pytest.skip("/tmp/storage exists: the document's line would write into it")
    try:
        process = start_store(home, processes, "first")
        assert "only this user" in processes.output("first").read_text()
        for line in CLIENT[:2]:
            run(line, home)
        expected = Path("/etc/passwd").read_bytes()[20:60]
        assert run(CLIENT[2], home) == expected
        process.kill()
        process.wait()
        start_store(home, processes, "second")
        assert run(CLIENT[2], home) == expected
        assert run(CLIENT[2].replace("passwd --offset 20 --length 40", "testobj"), home) == b"hello world"
        other_user_is_refused(home)
    finally:
        processes.end_all()
        shutil.rmtree(storage, ignore_errors=True)


def test_mem_store_forgets(home: Path, processes: Processes) -> None:
    line = FILE_STORE.replace("file-store", "mem-store").replace("--dir /tmp/storage", "")
    first = processes.start("first", words(line), directory=home)
    wait_for(lambda: "4148" in processes.output("first").read_text(), 10, "the daemon")
    run(CLIENT[0], home)
    assert run(CLIENT[2].replace("passwd --offset 20 --length 40", "testobj"), home) == b"hello world"
    assert processes.end(first) == 0
    processes.start("second", words(line), directory=home)
    wait_for(lambda: "4148" in processes.output("second").read_text(), 10, "the daemon")
    gone = words(CLIENT[2].replace("passwd --offset 20 --length 40", "testobj"))
    done = subprocess.run(gone, cwd=home, capture_output=True, timeout=20, check=False)
    assert done.returncode == 1 and b"no such object" in done.stderr


def test_block_device_without_a_master(home: Path, processes: Processes, need: Callable[..., None]) -> None:
    """The document's NBD gateway: an image of a daemon that stands alone, made when it is opened."""
    need("nbdkit", "nbdinfo", "nbdcopy")
    line = FILE_STORE.replace("file-store", "mem-store").replace("--dir /tmp/storage", "")
    processes.start("daemon", words(line), directory=home)
    wait_for(lambda: "4148" in processes.output("daemon").read_text(), 10, "the daemon")
    gateway = "store nbd --storage-daemon 127.0.0.1:4148 --pool testpool --image testblock --size 32M --socket"
    processes.start("gateway", [*words(gateway), home / "nbd.sock"])
    wait_for((home / "nbd.sock").exists, 10, processes.output("gateway").read_text())
    uri = f"nbd+unix:///testblock?socket={home}/nbd.sock"
    (home / "in").write_bytes(os.urandom(1 << 20) * 32)
    subprocess.run(["nbdcopy", home / "in", uri], check=True, timeout=60)
    subprocess.run(["nbdcopy", uri, home / "out"], check=True, timeout=60)
    assert (home / "out").read_bytes() == (home / "in").read_bytes()


def start_store(home: Path, processes: Processes, name: str) -> subprocess.Popen[bytes]:
    process = processes.start(name, words(FILE_STORE), directory=home)
    wait_for(lambda: "4148" in processes.output(name).read_text(), 10, "the daemon")
    return process


def other_user_is_refused(home: Path) -> None:
    """Somebody else on the machine has no access file, and so no way to talk to the daemon."""
    if os.geteuid() != 0:
        return
    done = subprocess.run(
        words(CLIENT[2]), cwd="/", capture_output=True, timeout=20, check=False, user=65534, group=65534,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == b""
