"""kill -9: of everything at once after a flush, and of any one daemon at any time. Nothing acknowledged is lost."""

import os
import random
import signal
import subprocess
import threading
import time

import pytest

from tests.processes import wait_for
from tests.system.local import LocalCluster

WRITES = 150
LOCK_S = 40.0  # an image's lease, and some
DAEMONS = ("daemon1", "daemon2", "daemon3")

# Runs under the system's Python, whose libnbd it needs. Writes blocks, flushes, prints what is safe, reads all back.
WRITER = """
import nbd, random, sys
uri, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
handle = nbd.NBD()
handle.connect_uri(uri)
chance = random.Random(seed)
for number in range(count):
    block, byte = chance.randrange(4096), chance.randrange(256)
    handle.pwrite(bytes([byte]) * 4096, block * 4096)
    if number % 10 == 9:
        handle.flush()
        print(number + 1, flush=True)
chance, expected = random.Random(seed), {}
for number in range(count):
    block, byte = chance.randrange(4096), chance.randrange(256)
    expected[block] = byte
if any(handle.pread(4096, block * 4096) != bytes([byte]) * 4096 for block, byte in expected.items()):
    sys.exit("read other bytes than were written")
handle.shutdown()
"""

# Each block must hold what the last of the first `count` writes put there, or what one of the `later` ones did.
READER = """
import nbd, random, sys
uri, seed, count, later = sys.argv[1], *map(int, sys.argv[2:])
handle = nbd.NBD()
handle.connect_uri(uri)
chance, allowed = random.Random(seed), {}
for number in range(count + later):
    block, byte = chance.randrange(4096), chance.randrange(256)
    if number < count:
        allowed[block] = {byte}
    elif block in allowed:
        allowed[block].add(byte)
wrong = 0
for block, values in allowed.items():
    data = handle.pread(4096, block * 4096)
    wrong += data[0] not in values or data != data[:1] * 4096
print(wrong)
"""


@pytest.fixture
def libnbd() -> None:
    if subprocess.run(["/usr/bin/python3", "-c", "import nbd"], capture_output=True, check=False).returncode != 0:
        pytest.skip("python3-libnbd is not installed (tools/setup test installs it)")


def python(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wrong_blocks(cluster: LocalCluster, image: str, seed: int, count: int, later: int = 0) -> int:
    """Blocks that are not what was written. A writer that was killed may hold the image until its lease ends."""
    end = time.monotonic() + LOCK_S
    while True:
        reader = python(READER, cluster.uri(image), seed, count, later)
        output, errors = reader.communicate(timeout=60)
        if reader.returncode == 0:
            return int(output)
        assert time.monotonic() < end, errors.decode() + cluster.logs()
        time.sleep(1)


def test_every_process_killed_after_a_flush(cluster: LocalCluster, libnbd: None) -> None:
    """All of them at the same moment, writer in full flight: what the last flush covered is there after a restart."""
    cluster.store("image", "create", "book", "--size", "64M")
    writer = python(WRITER, cluster.uri("book"), 1, WRITES * 100)
    assert writer.stdout is not None
    flushed = 0
    while flushed < WRITES:
        flushed = int(writer.stdout.readline())
    cluster.kill_everything()
    rest, _ = writer.communicate(timeout=60)
    flushed = int(rest.split()[-1]) if rest.split() else flushed
    assert writer.returncode != 0
    cluster.start()
    assert wrong_blocks(cluster, "book", 1, flushed, later=10) == 0


@pytest.mark.parametrize("victim", DAEMONS)
def test_one_daemon_killed_under_load(cluster: LocalCluster, libnbd: None, victim: str) -> None:
    """No error reaches the NBD client, I/O goes on within 12 s, and every acknowledged block is there."""
    cluster.store("image", "create", "book", "--size", "64M")
    count = WRITES * 10
    writer = python(WRITER, cluster.uri("book"), 2, count)
    seen: list[bytes] = []
    assert writer.stdout is not None
    reading = threading.Thread(target=lambda: seen.extend(iter(writer.stdout.readline, b"")))  # type: ignore[union-attr]
    reading.start()
    wait_for(lambda: len(seen) > 3, 30, "the writer under way")
    before = len(seen)
    cluster.kill(victim)
    wait_for(lambda: len(seen) > before + 2 or writer.poll() is not None, 12, "I/O after the kill")
    reading.join(90)
    assert writer.wait(10) == 0, writer.stderr.read().decode() if writer.stderr else ""
    assert wrong_blocks(cluster, "book", 2, count) == 0
    cluster.await_well()


def test_objects_survive_a_killed_daemon(cluster: LocalCluster) -> None:
    """The native client, without NBD: writes go on during the failover and are all readable."""
    chance = random.Random(3)
    for number in range(30):
        if number == 10:
            cluster.kill(chance.choice(DAEMONS))
        cluster.store("write", "--pool", "main", f"o{number}", "--data-literal", f"value {number}")
    for number in range(30):
        assert cluster.store("read", "--pool", "main", f"o{number}").stdout == f"value {number}".encode()


def test_goes_on_without_the_master(cluster: LocalCluster, libnbd: None) -> None:
    """A client that runs keeps reading and writing while the master is stopped."""
    cluster.store("image", "create", "book", "--size", "64M")
    writer = python(WRITER, cluster.uri("book"), 4, WRITES * 10)
    assert writer.stdout is not None
    writer.stdout.readline()
    master = cluster.process("master")
    os.kill(master, signal.SIGSTOP)  # silent, not dead: `store up` does not start another
    try:
        assert writer.wait(60) == 0, writer.stderr.read().decode() if writer.stderr else ""
    finally:
        os.kill(master, signal.SIGCONT)
