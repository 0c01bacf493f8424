"""The script that nbdkit loads: `nbdkit python gateways/nbd/plugin.py config=FILE pool=POOL image=IMAGE`.

nbdkit embeds the system's Python and runs this as `__main__`, outside of any virtual environment. So the first thing
is to find the packages: those named by HYPHAE_SITE (`store nbd` sets it), else the environment beside the source.
"""

import os
import site
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _find_packages() -> None:
    """Puts them before the distribution's own, whose versions differ. Raises RuntimeError with what to do."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    chosen = os.environ.get("HYPHAE_SITE")
    packages = Path(chosen) if chosen else _ROOT / ".venv" / "lib" / version / "site-packages"
    if not packages.is_dir():
        raise RuntimeError(
            f"no packages for {version} at {packages}: run `make up` first, or start this by `store nbd`"
        )
    if packages.parent.name != version:
        raise RuntimeError(f"nbdkit embeds {version}, but {packages} is for another one: start this by `store nbd`")
    before = len(sys.path)
    site.addsitedir(str(packages))  # reads .pth files too, which PYTHONPATH would not
    sys.path[:] = [str(_ROOT), *sys.path[before:], *sys.path[:before]]
    try:
        import ssl  # noqa: F401, PLC0415
    except ImportError as error:
        text = f"nbdkit took the standard library of another Python ({sys.prefix}): start it by `store nbd`"
        raise RuntimeError(f"{text}, or with PATH=/usr/bin:/bin") from error


_find_packages()

from gateways.nbd.callbacks import (  # noqa: E402
    API_VERSION,
    after_fork,
    block_size,
    can_cache,
    can_extents,
    can_fast_zero,
    can_flush,
    can_fua,
    can_multi_conn,
    can_trim,
    can_write,
    can_zero,
    cleanup,
    close,
    config,
    config_complete,
    default_export,
    export_description,
    extents,
    flush,
    get_size,
    is_rotational,
    list_exports,
    open,
    pread,
    pwrite,
    thread_model,
    trim,
    zero,
)

__all__ = [
    "API_VERSION",
    "after_fork",
    "block_size",
    "can_cache",
    "can_extents",
    "can_fast_zero",
    "can_flush",
    "can_fua",
    "can_multi_conn",
    "can_trim",
    "can_write",
    "can_zero",
    "cleanup",
    "close",
    "config",
    "config_complete",
    "default_export",
    "export_description",
    "extents",
    "flush",
    "get_size",
    "is_rotational",
    "list_exports",
    "open",
    "pread",
    "pwrite",
    "thread_model",
    "trim",
    "zero",
]
