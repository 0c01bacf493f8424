"""A guest machine with a real kernel: Debian's cloud kernel in QEMU, by software emulation, with a small initrd."""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parents[1] / "build" / "kernel"
BUSYBOX: Final = Path("/bin/busybox")
PROGRAMS: Final = ("nbd-client", "mke2fs", "e2fsck", "fstrim")
APPLETS: Final = [
    "sh", "mount", "umount", "ip", "insmod", "cat", "echo", "mkdir", "rm", "cp", "find", "sync", "sha256sum",
    "poweroff", "dd", "sort", "xargs", "grep", "blockdev", "sleep", "ls",
]  # fmt: skip
# In the order in which they need one another.
MODULES: Final = [
    "failover", "net_failover", "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev",
    "virtio_pci", "virtio_net", "nbd",
]  # fmt: skip


class Kernel:
    """A Debian kernel package, unpacked and not installed."""

    def __init__(self, root: Path) -> None:
        self.image = next((root / "boot").glob("vmlinuz-*"))
        self._modules = root / "lib/modules"

    def module(self, name: str) -> Path | None:
        return next(self._modules.rglob(f"{name}.ko"), None)


def cloud_kernel() -> Kernel:
    """Downloads it once with apt. Skips the test, aloud, where it cannot be had."""
    for program in ("apt-get", "apt-cache", "dpkg-deb", "qemu-system-x86_64", "cpio", "nbd-client", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"no guest machine: {program} is not installed (tools/setup test installs it)")
    unpacked = CACHE / "root"
    if not unpacked.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        depends = subprocess.run(
            ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False
        ).stdout
        named = re.search(r"Depends: (linux-image-\S+-cloud-amd64)$", depends, re.MULTILINE)
        if named is None:
            pytest.skip("no guest machine: apt knows no linux-image-cloud-amd64")
        subprocess.run(["apt-get", "download", named[1]], cwd=CACHE, capture_output=True, check=False)
        package = next(CACHE.glob("linux-image-*.deb"), None)
        if package is None:
            pytest.skip(f"no guest machine: apt could not download {named[1]}")
        partial = CACHE / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg-deb", "-x", package, partial], check=True)
        partial.rename(unpacked)
        package.unlink()
    return Kernel(unpacked)


def make_initrd(kernel: Kernel, root: Path, books: Iterable[Path]) -> Path:
    """Everything the guest needs, in one file beside `root`."""
    for folder in ("bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "modules", "books"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for program in PROGRAMS:
        copy_program(program, root)
    shutil.copy("/etc/mke2fs.conf", root / "etc")
    order = []
    for name in MODULES:
        module = kernel.module(name)
        if module is not None:  # otherwise it is built in
            shutil.copy(module, root / "modules")
            order.append(name)
    (root / "modules/order").write_text(" ".join(order))
    for book in books:
        shutil.copy(book, root / "books")
    shutil.copy(HERE / "guest/init.sh", root / "init")
    shutil.copy(HERE / "guest/job.sh", root / "job.sh")
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    ).stdout
    packed = root.with_suffix(".gz")
    packed.write_bytes(gzip.compress(archive, 1))
    return packed


def copy_program(name: str, root: Path) -> None:
    """A program of this machine with the libraries it is linked to."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    assert found is not None, name
    shutil.copy(Path(found).resolve(), root / "sbin" / name)
    linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+\.so\S*)", linked):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(Path(library).resolve(), target)


def machine_command(kernel: Kernel, initrd: Path, port: int, image: str) -> list[str]:
    """QEMU without KVM, console on stdout; the host is 10.0.2.2 to the guest."""
    return [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768", "-nodefaults",
        "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-netdev", "user,id=net",
        "-device", "virtio-net-pci,netdev=net,romfile=", "-kernel", str(kernel.image), "-initrd", str(initrd),
        "-append", f"console=ttyS0 quiet panic=-1 mitigations=off PORT={port} IMAGE={image}",
    ]  # fmt: skip
