"""The kernel's own NBD client, in a guest machine: mkfs, mount, kill -9 of a daemon, fsck, every byte compared."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Processes, wait_for
from tests.system.local import STORE, LocalCluster
from tests.system.machine import cloud_kernel, machine_command, make_initrd
from tests.system.test_ext4 import books

GUEST_S = 240.0


@pytest.mark.timeout(400)
def test_ext4_under_the_kernel_client(
    cluster: LocalCluster, processes: Processes, tmp_path: Path, free_ports: Callable[[int], int]
) -> None:
    kernel = cloud_kernel()
    initrd = make_initrd(kernel, tmp_path / "initrd", books()[:3])
    port = free_ports(1)
    cluster.store("image", "create", "book", "--size", "2G")
    processes.start(
        "gateway", [STORE, "--config", cluster.config, "nbd", "--image", "book", "--listen", f"127.0.0.1:{port}"]
    )
    guest = processes.start("guest", machine_command(kernel, initrd, port, "book"))
    console = processes.output("guest")

    def says(text: str) -> Callable[[], bool]:
        return lambda: text in console.read_text(errors="replace") or guest.poll() is not None

    wait_for(says("GUEST-WRITING"), GUEST_S, "the guest writing")
    cluster.kill("daemon1")
    wait_for(says("GUEST-EXIT"), GUEST_S, "the end of the guest's job")
    said = console.read_text(errors="replace")
    assert "GUEST-DONE" in said and "GUEST-EXIT 0" in said, said[-3000:] + cluster.logs()
    assert "GUEST-SUMS-EQUAL 19" in said, said[-3000:]  # 1,900 small files, 19 random ones, the books
    cluster.await_well()
