"""The plugin inside a real nbdkit, used by real NBD clients."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.nbd.launch import clean_environment
from store.limits import MIB
from tests.client.live import LiveDaemon

SIZE = 64 * MIB
SYSTEM = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # whose Python has libnbd
PLUGIN = Path(__file__).parents[2] / "gateways" / "nbd" / "plugin.py"


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=SYSTEM["PATH"]) is None:
            pytest.skip(f"{program} is not installed")
    if "nbdsh" in programs and subprocess.run(["/usr/bin/python3", "-c", "import nbd"], check=False).returncode:
        pytest.skip("python3-libnbd is not installed")


@pytest.fixture
def socket(daemon: LiveDaemon, tmp_path: Path) -> Iterator[Path]:
    """A gateway that serves image `disk`, started as `store nbd` starts it."""
    need("nbdkit", "nbdsh", "nbdinfo")
    path = tmp_path / "nbd.sock"
    line = [sys.executable, "-m", "gateways.nbd", "--storage-daemon", f"127.0.0.1:{daemon.address[1]}", "--pool", "p"]
    line += ["--image", "disk", "--size", str(SIZE), "--timeout", "5", "--socket", str(path)]
    process = subprocess.Popen(line, env={**os.environ, "PATH": "/nonexistent"})
    try:
        wait_for(path, process)
        yield path
    finally:
        process.terminate()
        process.wait(30)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """nbdsh connects again and again until the server is there."""
    script = f"""
import nbd, time
for turn in range(300):
    try:
        h = nbd.NBD(); h.connect_uri("{uri(path)}"); break
    except nbd.Error:
        time.sleep(0.05)
else:
    raise SystemExit("the gateway does not start")
"""
    subprocess.run(["nbdsh", "-c", script], check=True, timeout=60, env=SYSTEM)
    assert process.poll() is None


def uri(path: Path, export: str = "disk") -> str:
    return f"nbd+unix:///{export}?socket={path}"


def nbdsh(path: Path, script: str, export: str = "disk") -> str:
    done = subprocess.run(
        ["nbdsh", "--base-allocation", "-u", uri(path, export), "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=SYSTEM,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_it_offers(socket: Path) -> None:
    shown = subprocess.run(["nbdinfo", uri(socket)], capture_output=True, text=True, check=True, timeout=60).stdout
    for line in ("can_fua: true", "can_multi_conn: true", "can_trim: true", "can_fast_zero: true", "can_flush: true"):
        assert line in shown
    assert "block_size_preferred: 4096" in shown and f"export-size: {SIZE}" in shown


def test_reads_writes_flush_trim_zero_and_extents(socket: Path) -> None:
    script = """
import nbd, random
rng = random.Random(4)
truth = bytearray(h.get_size())
for step in range(200):
    offset = rng.randrange(len(truth)); length = min(rng.choice((1, 512, 4096, 65536, 300000)), len(truth) - offset)
    action = rng.randrange(7)
    if action < 3:
        data = rng.randbytes(length)
        h.pwrite(data, offset, nbd.CMD_FLAG_FUA if action == 2 else 0); truth[offset:offset + length] = data
    elif action == 3:
        h.zero(length, offset); truth[offset:offset + length] = bytes(length)
    elif action == 4:
        h.trim(length, offset); truth[offset:offset + length] = bytes(length)
    elif action == 5:
        h.flush()
    else:
        assert h.pread(length, offset) == truth[offset:offset + length], step
h.trim(len(truth), 0)
holes = []
h.block_status(len(truth), 0, lambda context, offset, entries, error: holes.extend(entries))
print(holes)
assert h.pread(5000, 100) == bytes(5000)
"""
    assert nbdsh(socket, script).strip() == f"[{SIZE}, 3]"


def test_a_flush_and_a_disconnect_make_everything_durable(daemon: LiveDaemon, socket: Path) -> None:
    nbdsh(socket, "h.pwrite(b'f' * 4096, 8192); h.flush(); h.pwrite(b'u' * 4096, 0)")
    with daemon.lock:
        daemon.state.power_cut()
    assert nbdsh(socket, "print(h.pread(1, 8192), h.pread(1, 0))").strip() == "bytearray(b'f') bytearray(b'u')"


def test_errors_reach_the_client_with_their_errno(daemon: LiveDaemon, socket: Path) -> None:
    with daemon.lock:
        daemon.state.full = True
    script = """
import nbd
try:
    h.pwrite(b"x" * 4096, 0)
except nbd.Error as error:
    print(error.errno)
"""
    assert nbdsh(socket, script).strip() == "ENOSPC"


def test_silence_is_waited_for_and_then_an_error(daemon: LiveDaemon, socket: Path) -> None:
    """The connection survives it, and so do the data."""
    script = """
import nbd, sys, time
h.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA)
print("ready", flush=True)
sys.stdin.readline()
begin = time.monotonic()
try:
    h.pread(4096, 0)
except nbd.Error as error:
    print(error.errno, 4 < time.monotonic() - begin < 8, flush=True)
sys.stdin.readline()
print(h.pread(1, 0), flush=True)
"""
    line = ["/usr/bin/python3", "-c", f"import nbd\nh = nbd.NBD()\nh.connect_uri({uri(socket)!r})\n{script}"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        for alive, says in ((False, "EIO True\n"), (True, "bytearray(b'x')\n")):
            with daemon.lock:
                daemon.daemon.alive = alive
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() == says
    assert program.returncode == 0


def test_an_unknown_export_is_refused(socket: Path) -> None:
    with pytest.raises(AssertionError, match="disc"):
        nbdsh(socket, "pass", export="disc")


def test_the_script_works_without_the_launcher(daemon: LiveDaemon, tmp_path: Path) -> None:
    """As in the founding document: nbdkit is told the plugin's path and the daemon's address."""
    need("nbdkit", "nbdinfo")
    parameters = [f"storage_daemon_address=127.0.0.1:{daemon.address[1]}", "pool=testpool", "image=testblock"]
    environment = clean_environment(os.environ)
    line = ["/usr/sbin/nbdkit", "-U", "-", "python", str(PLUGIN), *parameters, "--run", 'nbdinfo --size "$uri"']
    line[0] = shutil.which("nbdkit", path="/usr/sbin:/usr/bin") or "nbdkit"
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.stdout.strip() == str(10 << 30), done.stderr


def test_wrong_parameters_end_nbdkit_with_a_reason() -> None:
    need("nbdkit")
    environment = clean_environment(os.environ)
    line = ["nbdkit", "-U", "-", "python", str(PLUGIN), "colour=red", "--run", "true"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode != 0 and "unknown parameter 'colour'" in done.stderr
