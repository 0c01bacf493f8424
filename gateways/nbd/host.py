"""nbdkit as this plugin sees it. The module exists only inside nbdkit."""

import importlib
from typing import Protocol, cast


class Nbdkit(Protocol):
    """The part of nbdkit's Python module that is used."""

    THREAD_MODEL_PARALLEL: int
    FUA_NATIVE: int
    CACHE_EMULATE: int
    FLAG_FUA: int
    EXTENT_HOLE: int
    EXTENT_ZERO: int

    def export_name(self) -> str:
        """What the client asked for, in `open`."""

    def set_error(self, error: int) -> None:
        """The errno of the exception that is raised next; without it every exception is EIO."""

    def debug(self, message: str) -> None:
        """To nbdkit's log, with -v."""


def nbdkit() -> Nbdkit:
    """Raises ModuleNotFoundError outside of nbdkit."""
    return cast(Nbdkit, importlib.import_module("nbdkit"))
