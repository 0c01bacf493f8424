"""How an image becomes a block device: an NBD server of its own, then the kernel's client, or nbdfuse and loop.

Each attachment has a directory under /run/hyphae (or STORE_RUN) with the socket, the log of its server and
`attachment.json`, by which `detach` knows what to undo. The order of undoing matters: unmount, free the device, let
nbdfuse end by itself, and only then stop the NBD server, which gives the image's lock back.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from store.errors import ConfigError, Status, StoreError

START_S: Final = 20.0
UNDO_S: Final = 20.0
KERNEL_TIMEOUT_S: Final = 120  # after which the kernel gives a request up; the server answers EIO long before
TERMINATE_S: Final = 15.0


class Via(StrEnum):
    AUTO = "auto"
    KERNEL = "kernel"
    FUSE = "fuse"


class Attachment(msgspec.Struct):
    """What has been set up so far, in the order it was; empty fields: not (yet)."""

    pool: str
    image: str
    config: str
    via: str
    server: int = 0  # process ids
    fuse: int = 0
    device: str = ""
    mount: str | None = None

    @property
    def directory(self) -> Path:
        return run_directory() / self.pool / self.image

    @property
    def socket(self) -> Path:
        return self.directory / "nbd.sock"

    def save(self) -> None:
        partial = self.directory / "attachment.json.new"
        partial.write_bytes(msgspec.json.encode(self))
        partial.replace(self.directory / "attachment.json")


def run_directory() -> Path:
    return Path(os.environ.get("STORE_RUN") or "/run/hyphae") / "attached"


def attach(config: Path, pool: str, image: str, via: Via, mkfs: str | None, mount: Path | None) -> Attachment:
    """Set everything up, or undo what was done and raise StoreError or ConfigError."""
    if os.geteuid() != 0:
        raise ConfigError("attaching a block device needs root; or serve the image with `store nbd` and use it there")
    made = Attachment(pool, image, str(config), str(_choose(via)))
    if (made.directory / "attachment.json").exists():
        raise ConfigError(f"{pool}/{image} is attached already (or was, before a crash): `store detach {image}` first")
    made.directory.mkdir(parents=True, mode=0o700)
    try:
        _serve(made)
        (_kernel_device if made.via == Via.KERNEL else _loop_device)(made)
        if mkfs is not None:
            _make_file_system(made.device, mkfs)
        if mount is not None:
            mount.mkdir(parents=True, exist_ok=True)
            _run(["mount", made.device, str(mount)])
            made.mount = str(mount)
            made.save()
    except BaseException:
        detach(made)
        raise
    return made


def find(image: str, pool: str | None) -> Attachment:
    """The attachment of that name. Raises ConfigError if there is none, or several and no pool is given."""
    pools = [pool] if pool else sorted(path.name for path in run_directory().glob("*") if (path / image).is_dir())
    if len(pools) > 1:
        raise ConfigError(f"{image} is attached from several pools ({', '.join(pools)}): say which with --pool")
    for name in pools:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(
                (run_directory() / name / image / "attachment.json").read_bytes(), type=Attachment
            )
    raise ConfigError(f"{image} is not attached on this machine")


def detach(made: Attachment) -> None:
    """Undo an attachment, whole or half made. Raises StoreError while something still uses it."""
    if made.mount is not None:
        if os.path.ismount(made.mount):
            _run(["umount", made.mount], busy=f"{made.mount} is in use: `fuser -vm {made.mount}` says by what")
        made.mount = None
        made.save()
    if made.device and _attached(made.device):
        _run(["nbd-client", "-d", made.device] if made.via == Via.KERNEL else ["losetup", "-d", made.device])
    if made.device:
        made.device = ""
        made.save()
    if made.fuse:
        # The loop device lets go of its file a moment after losetup returns.
        _until(lambda: _unmounted(made.directory / "fuse"), UNDO_S, "the fuse mount")
        _until(lambda: not _alive(made.fuse), UNDO_S, "nbdfuse")
        made.fuse = 0
        made.save()
    if made.server:
        _terminate(made.server)
    shutil.rmtree(made.directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        made.directory.parent.rmdir()


# --- the steps -------------------------------------------------------------------------------------------------------


def _choose(via: Via) -> Via:
    if via != Via.AUTO:
        return via
    if not Path("/sys/module/nbd").exists():
        subprocess.run(["modprobe", "-q", "nbd"], check=False, capture_output=True)
    return Via.KERNEL if Path("/sys/block/nbd0").exists() and shutil.which("nbd-client") else Via.FUSE


def _serve(made: Attachment) -> None:
    """The NBD server of this attachment, which outlives this command."""
    command = [sys.executable, "-m", "store.cli", "--config", made.config]
    command += ["nbd", "--pool", made.pool, "--image", made.image, "--socket", str(made.socket)]
    made.server = _orphan(command, made.directory / "server.log")
    made.save()
    _await_start(made.socket.exists, made.server, made.directory / "server.log", "the NBD server")


def _orphan(command: Sequence[str | Path], log: Path) -> int:
    """Start a process that is nobody's child, and so ends with nobody; returns its id.

    nbdkit asks the kernel for a SIGTERM when its parent ends (PR_SET_PDEATHSIG), in the foreground too.
    """
    with log.open("wb") as output:
        shell = subprocess.run(
            ["sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *map(str, command)],
            stdout=subprocess.PIPE, stderr=output, start_new_session=True, cwd="/", check=True,
        )  # fmt: skip
    return int(shell.stdout)


def _await_start(ready: Callable[[], bool], process: int, log: Path, what: str) -> None:
    """Until it is ready. Raises StoreError with its last words if it ends instead."""
    end = time.monotonic() + START_S
    while not ready():
        if not _alive(process):
            lines = log.read_text(errors="replace").strip().splitlines() or ["no reason given"]
            raise StoreError(Status.UNAVAILABLE, f"{what} ended: {lines[-1].removeprefix('store: ')}")
        if time.monotonic() > end:
            raise StoreError(Status.TIMEOUT, f"{what} does not start; see {log}")
        time.sleep(0.02)


def _kernel_device(made: Attachment) -> None:
    free = next((f"/dev/{p.name}" for p in sorted(Path("/sys/block").glob("nbd*")) if not (p / "pid").exists()), None)
    if free is None:
        raise StoreError(Status.UNAVAILABLE, "no free /dev/nbd device; detach one, or use --via fuse")
    _run(["nbd-client", "-unix", str(made.socket), "-N", made.image, "-b", "4096", "-t", str(KERNEL_TIMEOUT_S), free])
    made.device = free
    made.save()


def _loop_device(made: Attachment) -> None:
    for program, package in (("nbdfuse", "libnbd-bin"), ("losetup", "util-linux"), ("fusermount3", "fuse3")):
        if shutil.which(program) is None:
            raise ConfigError(f"{program} is missing: apt-get install {package}")
    mount = made.directory / "fuse"
    mount.mkdir()
    pid_file, log = made.directory / "nbdfuse.pid", made.directory / "nbdfuse.log"
    uri = f"nbd+unix:///{made.image}?socket={made.socket}"
    made.fuse = _orphan(["nbdfuse", "-P", pid_file, mount / "disk", uri], log)
    made.save()
    _await_start(lambda: pid_file.exists() and pid_file.stat().st_size > 0, made.fuse, log, "nbdfuse")
    made.device = _run(["losetup", "--find", "--show", "--direct-io=on", str(mount / "disk")]).strip()
    made.save()


def _make_file_system(device: str, kind: str) -> None:
    if shutil.which(f"mkfs.{kind}") is None:
        raise ConfigError(f"no mkfs.{kind} on this machine; `--mkfs ext4` needs the package e2fsprogs")
    there = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", device], capture_output=True, text=True, check=False
    ).stdout.strip()
    if there:
        raise ConfigError(f"the image holds a file system already ({there}): attach it without --mkfs")
    _run([f"mkfs.{kind}", "-q", device])


def _run(command: Sequence[str], busy: str = "") -> str:
    """Run a program of the system; its last line of complaint becomes the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaint = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        if busy and "busy" in complaint:
            raise StoreError(Status.BUSY, busy)
        raise StoreError(Status.UNAVAILABLE, f"{command[0]} failed: {complaint}")
    return done.stdout


def _attached(device: str) -> bool:
    """Whether the loop or nbd device is in use by anybody."""
    state = Path("/sys/block") / Path(device).name
    return (state / "loop/backing_file").exists() or (state / "pid").exists()


def _unmounted(mount: Path) -> bool:
    return not os.path.ismount(mount) or (
        subprocess.run(["fusermount3", "-u", str(mount)], check=False, capture_output=True).returncode == 0
    )


def _alive(process: int) -> bool:
    """Whether it runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _terminate(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    _until(lambda: not _alive(process), TERMINATE_S, "the NBD server")


def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise StoreError(Status.TIMEOUT, f"{what} does not end; try `store detach` again")
        time.sleep(0.05)
