"""What ends later: group commit of the journal and jobs of the one background thread, with their callbacks.

Group commit needs no timer: a sync begins at once when none is in flight; whatever asks meanwhile shares the next.
"""

from collections import deque
from collections.abc import Callable

from daemon.storage.backend import Backend
from daemon.storage.syncers import DiskFailed, Syncer

Done = Callable[[], None]


class Background:
    """Callbacks run inside `collect`, never inside the call that asked for them."""

    def __init__(self, backend: Backend, syncer: Syncer) -> None:
        self._backend, self._syncer = backend, syncer
        self._waiting: list[Done] = []  # for a sync that has not begun
        self._covered: list[Done] = []  # by the sync in flight
        self._syncing = False
        self._jobs: deque[tuple[Done, Done]] = deque()  # with what follows each; the first runs
        self.failed = False
        self.syncs = 0

    @property
    def pending(self) -> bool:
        return self._syncing or bool(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return bool(self._jobs)

    def sync(self, on_done: Done) -> None:
        self._waiting.append(on_done)
        if not self._syncing:
            self._submit()

    def _submit(self) -> None:
        self._covered, self._waiting = self._waiting, []
        self._syncing = True
        self._syncer.submit()

    def start(self, job: Done, then: Done) -> None:
        """Run `job` in the thread, after those that were started before; then `then` in `collect`."""
        self._jobs.append((job, then))
        if len(self._jobs) == 1:
            self._backend.start(job)

    def collect(self) -> None:
        """Take up what has ended. DiskFailed when a sync or a job failed: nothing is pending after that."""
        self._backend.settle()
        try:
            synced = self._syncing and self._syncer.finished()
            job_ended = bool(self._jobs) and self._backend.job_finished()
        except DiskFailed:
            self.failed, self._syncing = True, False
            self._jobs.clear()
            raise
        if synced:
            self._synced()
        if job_ended:
            _, then = self._jobs.popleft()
            if self._jobs:
                self._backend.start(self._jobs[0][0])
            then()

    def _synced(self) -> None:
        self.syncs += 1
        covered, self._covered, self._syncing = self._covered, [], False
        if self._waiting:
            self._submit()
        for on_done in covered:
            on_done()

    def wait(self) -> None:
        """Block until something has ended, and take it up. Only while `pending`."""
        self._backend.wait()
        self.collect()

    def finish_jobs(self) -> None:
        while self._jobs:
            self.wait()

    def finish(self) -> None:
        while self.pending:
            self.wait()

    def close(self) -> None:
        self._syncer.close()
