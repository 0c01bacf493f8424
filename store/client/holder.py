"""Who holds an image: what a refused person reads, and by which the same machine sees that a holder is dead.

    nbd on homeserver, process 1234 [5f1c22aa.98765]

In brackets: a mark of this boot and process namespace, and the process's start time. Where the mark is ours and no such
process runs, the holder is gone for certain; its lock may be given back in its name without waiting for its lease.
"""

import os
import re
import socket
import zlib
from pathlib import Path
from typing import Final

_FORM: Final = re.compile(r".*, process (\d+) \[([0-9a-f]{8})\.(\d+)\]", re.DOTALL)
_START_TIME: Final = 19  # place in /proc/PID/stat behind the name, in clock ticks since the boot


def default_holder(program: str) -> str:
    """What those are told who are refused an image that this process holds."""
    process = os.getpid()
    return f"{program} on {socket.gethostname()}, process {process} [{_mark()}.{_started(process)}]"


def is_gone(holder: str) -> bool:
    """Whether the holder certainly runs no more. False in any doubt."""
    found = _FORM.fullmatch(holder)
    return found is not None and found[2] == _mark() and _started(int(found[1])) != int(found[3])


def _mark() -> str:
    """Of the boot and of what process numbers mean here; eight hexadecimal digits."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{boot} {namespace}'.encode()):08x}"


def _started(process: int) -> int:
    """The process's start time, 0 if there is none of that number."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[_START_TIME])
