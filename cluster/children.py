"""Child processes by fork: they share what was imported before, are started again when they die, and end with us.

No threads and no event loop may run in the process that forks. Signals are not handled but waited for.
"""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from store.errors import ConfigError, StoreError

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 10.0
STABLE_S: Final = 30.0  # a child that ran for so long starts again without back-off
END_S: Final = 15.0
LOG_MAX: Final = 8 << 20  # bytes; a larger log is put aside when its program starts, replacing the one before

_PR_SET_PDEATHSIG: Final = 1
_WATCHED: Final = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

Program = Callable[[], int]  # runs in the child and returns its exit code; SystemExit counts too


class Child:
    """One program that should be running."""

    def __init__(self, name: str, program: Program, log: Path) -> None:
        self.name, self.program, self.log = name, program, log
        self.process = 0  # its id; 0: not running
        self.started = 0.0
        self.start_at = 0.0  # when to start it again
        self.backoff = BACKOFF_FIRST_S

    def last_words(self) -> str:
        """The last line of its log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1]
        return f"no reason given; see {self.log}"


class Children:
    """Starts, watches and ends the programs, in the order they were added and back."""

    def __init__(self, tell: Callable[[str], None], changed: Callable[[], None]) -> None:
        """`tell` gets a line when a child died; `changed` is called when process ids are other ones."""
        self._tell, self._changed = tell, changed
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.all: list[Child] = []
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)

    def add(self, child: Child) -> None:
        """Start it now."""
        self.all.append(child)
        self._start(child)

    def ended(self) -> list[Child]:
        """Those that do not run at this moment: for the time of starting up, before `watch`."""
        self._reap(quietly=True)
        return [child for child in self.all if not child.process]

    def watch(self) -> None:
        """Keep everything running until SIGINT, SIGTERM or SIGHUP."""
        while True:
            due = min((child.start_at for child in self.all if not child.process), default=None)
            pause = 3600.0 if due is None else max(0.0, due - time.monotonic())
            got = signal.sigtimedwait(_WATCHED, pause)
            if got is not None and got.si_signo != signal.SIGCHLD:
                return
            self._reap(quietly=False)
            for child in self.all:
                if not child.process and time.monotonic() >= child.start_at:
                    self._start(child)

    def end(self) -> None:
        """Stop them, last started first, one after the other: gateways before daemons before the master."""
        for child in reversed(self.all):
            if child.process:
                os.kill(child.process, signal.SIGTERM)
                self._await(child)
        self._changed()

    # --- inside

    def _start(self, child: Child) -> None:
        if child.log.exists() and child.log.stat().st_size > LOG_MAX:
            child.log.replace(child.log.with_suffix(".log.1"))
        gc.collect()
        gc.freeze()  # the collector of a child must not touch, and so copy, the pages it shares with us
        sys.stdout.flush()
        sys.stderr.flush()
        child.process = os.fork()
        if child.process == 0:
            self._become(child)
        child.started = time.monotonic()
        self._changed()

    def _become(self, child: Child) -> None:
        """In the child: never returns."""
        code = 1
        try:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # nothing outlives us, however we end
            os.setpgid(0, 0)  # Ctrl-C is for us alone; we stop the children in the right order
            log = os.open(child.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = child.program()
        except SystemExit as error:
            code = _exit_code(error)
        except (StoreError, ConfigError) as error:
            print(error, file=sys.stderr)
        except Exception:  # noqa: BLE001 - the outermost frame of a process: whatever it was belongs into its log
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self, *, quietly: bool) -> None:
        for child in self.all:
            if not child.process:
                continue
            ended, status = os.waitpid(child.process, os.WNOHANG)
            if not ended:
                continue
            child.process = 0
            now = time.monotonic()
            if now - child.started > STABLE_S:
                child.backoff = BACKOFF_FIRST_S
            child.start_at = now + child.backoff
            if not quietly:
                self._tell(f"{child.name} ended ({describe(status)}); starting it again in {child.backoff:g} s")
            child.backoff = min(2 * child.backoff, BACKOFF_MAX_S)
            self._changed()

    def _await(self, child: Child) -> None:
        end = time.monotonic() + END_S
        while os.waitpid(child.process, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                self._tell(f"{child.name} did not stop within {END_S:g} s and was killed")
                os.kill(child.process, signal.SIGKILL)
                os.waitpid(child.process, 0)
                break
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
        child.process = 0


def describe(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1
