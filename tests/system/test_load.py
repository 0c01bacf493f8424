"""More than the journal holds, as fast as it goes: nobody dies, nothing fails, all is well afterwards."""

import subprocess
from collections.abc import Callable

from tests.system.local import LocalCluster

SIZE_MIB = 192
LOOPS = 5  # together many times the 64 MiB of a journal under `store up`


def test_sustained_large_writes(cluster: LocalCluster, need: Callable[..., None]) -> None:
    """Writers are held back by BUSY and by peers that refuse records, never by an error."""
    need("fio")
    cluster.store("image", "create", "book", "--size", f"{SIZE_MIB}M")
    before = cluster.state()["processes"]
    command = ["fio", "--name=load", "--rw=write", "--bs=1M", "--iodepth=8", "--ioengine=nbd", "--fsync=64"]
    command += [f"--uri={cluster.uri('book')}", f"--size={SIZE_MIB}M", f"--loops={LOOPS}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=cluster.directory)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + cluster.logs()
    assert cluster.state()["processes"] == before, cluster.said()
    cluster.await_well(20)


def test_random_writes_are_what_is_read(cluster: LocalCluster, need: Callable[..., None]) -> None:
    """fio writes and verifies by checksums, at depth 16, over an area much smaller than what is written."""
    need("fio")
    cluster.store("image", "create", "book", "--size", "32M")
    command = ["fio", "--name=verify", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--ioengine=nbd", "--loops=2"]
    command += [f"--uri={cluster.uri('book')}", "--size=32M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=cluster.directory)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + cluster.logs()
