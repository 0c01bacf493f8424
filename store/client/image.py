"""The holder of an image's lock: order of overlapping writes, kept data, flush. Pure; rules R34-R36 of replication.

Claims. A change (write or clearing) claims its blocks before it is sent and releases them when it has ended. Changes
that touch the same block go one after the other, in the order they came. So at most one is in flight per block.

Kept data. An unstable write is kept from its acknowledgement until a flush confirms it (kept.py); reads of such blocks
are answered from it. Durable writes and clearings keep nothing. What is kept is bounded: beyond IMAGE_KEPT_SOFT the
shell begins a flush of its own accord, beyond IMAGE_KEPT_MAX no unstable write is admitted.

Flush. Acknowledgements of the image are numbered (*stamps*). A flush with stamp T has done its work in a group once
`durable` of the group has reached T, or the stamp of its last acknowledgement if that is lower:

| group is | job |
|---|---|
| being flushed | none; whoever sent that flush reports, and it may do for this one too |
| left with lost writes | send again what of them is still the newest (a claim like any other), one job each |
| otherwise | one FLUSH, which covers all that was acknowledged in the group so far |

An answer with verifier V confirms what is covered and was acknowledged with V; what was acknowledged with another one
is lost. `durable` rises only if nothing covered had another verifier, overwritten since or not.
Jobs may be taken by any number of callers; each must report what became of its own.
"""

from collections import deque
from typing import Final

from store.client.kept import BLOCK_SHIFT, Kept, KeptBlocks
from store.ids import GroupId
from store.limits import BLOCK, IMAGE_KEPT_MAX, IMAGE_KEPT_SOFT

CLEAR: Final = None  # data of a change that makes zeros


class Claim:
    """Blocks that one sender works on: nobody else sends anything for them."""

    __slots__ = ("end", "first")

    def __init__(self, offset: int, length: int) -> None:
        self.first = offset >> BLOCK_SHIFT
        self.end = offset + length + BLOCK - 1 >> BLOCK_SHIFT

    def touches(self, other: "Claim") -> bool:
        return self.first < other.end and other.first < self.end


class Change(Claim):
    """A write or clearing inside one object."""

    __slots__ = ("admitted", "data", "durable", "group", "length", "offset")

    def __init__(
        self, group: GroupId, offset: int, length: int, data: bytes | memoryview | None, durable: bool
    ) -> None:
        """`data` CLEAR: zeros, which are always durable."""
        super().__init__(offset, length)
        self.group, self.offset, self.length, self.data, self.durable = group, offset, length, data, durable
        self.admitted = False


class FlushJob:
    """Send one durable FLUSH to the group, then call `flushed` or `flush_failed`."""

    __slots__ = ("group", "stamp", "verifiers")

    def __init__(self, group: GroupId, stamp: int, verifiers: frozenset[int]) -> None:
        self.group, self.stamp = group, stamp
        self.verifiers = verifiers  # of all that it covers


class ResendJob(Claim):
    """Write `runs` again, unstably, then call `resent` or `resend_failed`."""

    __slots__ = ("kept", "runs")

    def __init__(self, kept: Kept, runs: list[tuple[int, memoryview]]) -> None:
        super().__init__(kept.start, len(kept.data))
        self.kept, self.runs = kept, runs


class Flush:
    """One caller's flush: what is acknowledged so far is to be durable."""

    __slots__ = ("groups", "stamp")

    def __init__(self, stamp: int, groups: list[GroupId]) -> None:
        self.stamp, self.groups = stamp, groups


class _Group:
    __slots__ = ("acknowledged", "durable", "flushing", "lost", "resending")

    def __init__(self) -> None:
        self.acknowledged = 0  # stamp of the newest unstable acknowledgement
        self.durable = 0  # everything acknowledged up to this stamp is durable
        self.flushing = False
        self.lost: dict[Kept, None] = {}  # to be sent again
        self.resending = 0


class ImageCore:
    """One open image with its lock. All offsets are bytes of the image."""

    def __init__(self, kept_soft: int = IMAGE_KEPT_SOFT, kept_max: int = IMAGE_KEPT_MAX) -> None:
        self.kept = KeptBlocks()
        self.stamp = 0
        self.failures = 0  # changes that may or may not have taken effect, and some day may still
        self.in_flight_bytes = 0  # of admitted unstable writes: they may be kept soon
        self._kept_soft, self._kept_max = kept_soft, kept_max
        self._claims: dict[Claim, None] = {}
        self._queue: deque[Change] = deque()
        self._groups: dict[GroupId, _Group] = {}
        self._unsettled: dict[GroupId, None] = {}  # groups whose acknowledgements are not all durable

    # --- changes -----------------------------------------------------------------------------------------------------

    def admit(self, change: Change) -> bool:
        """Claims the blocks. False: it waits for its turn and comes back from a later `acknowledged` or `failed`."""
        if not self.try_admit(change):
            self._queue.append(change)
            return False
        return True

    def try_admit(self, change: Change) -> bool:
        """As `admit`, but False means that nothing was done: for callers that hold other claims and must not wait."""
        if not self._free(change) or (self._queue and any(change.touches(waiting) for waiting in self._queue)):
            return False
        self._take(change)
        return True

    def abandon(self, change: Change) -> list[Change]:
        """The caller of a change that still waits gives up. Returns the changes whose turn it is now."""
        if change.admitted:
            return self.failed(change)
        self._queue.remove(change)
        return self._admit_next()

    def acknowledged(self, change: Change, verifier: int) -> list[Change]:
        """It is applied. Returns the changes whose turn it is now."""
        self.stamp += 1
        if change.durable:
            self.kept.replaced(change.offset, change.data, change.length, change.group, self.stamp)
        else:
            assert change.data is not None
            self.kept.put(change.offset, bytes(change.data), change.group, verifier, self.stamp)
            self._touch(change.group)
        return self._release(change)

    def failed(self, change: Change) -> list[Change]:
        """It has ended without an acknowledgement: its blocks hold the old or the new content until written again."""
        self.failures += 1
        return self._release(change)

    def _release(self, change: Change) -> list[Change]:
        del self._claims[change]
        if not change.durable:
            self.in_flight_bytes -= change.length
        return self._admit_next() if self._queue else []

    def room(self, length: int) -> bool:
        """Whether an unstable write of this length may begin, as far as memory is concerned."""
        return self.kept.bytes + self.in_flight_bytes + length <= self._kept_max

    @property
    def should_flush(self) -> bool:
        """So much is kept that it should be made durable without being asked."""
        return self.kept.bytes >= self._kept_soft

    def _take(self, change: Change) -> None:
        change.admitted = True
        self._claims[change] = None
        if not change.durable:
            self.in_flight_bytes += change.length

    def _free(self, claim: Claim) -> bool:
        first, end = claim.first, claim.end
        for other in self._claims:  # noqa: SIM110 - a plain loop: this is on the path of every write
            if other.first < end and first < other.end:
                return False
        return True

    def _admit_next(self) -> list[Change]:
        admitted: list[Change] = []
        still: deque[Change] = deque()
        for change in self._queue:
            if self._free(change) and not any(change.touches(earlier) for earlier in still):
                self._take(change)
                admitted.append(change)
            else:
                still.append(change)
        self._queue = still
        return admitted

    # --- flush -------------------------------------------------------------------------------------------------------

    def begin_flush(self) -> Flush:
        return Flush(self.stamp, list(self._unsettled))

    def flush_done(self, flush: Flush) -> bool:
        """Whether everything that was acknowledged when it began is durable."""
        flush.groups = [group for group in flush.groups if self._pending(group, flush.stamp)]
        return not flush.groups

    def jobs(self, flush: Flush, most: int) -> list[FlushJob | ResendJob]:
        """Work for this caller, at most so many jobs. None, and not done: others are at it; look when they report."""
        jobs: list[FlushJob | ResendJob] = []
        for group_id in flush.groups:
            if len(jobs) >= most:
                break
            if not self._pending(group_id, flush.stamp):
                continue
            group = self._groups[group_id]
            if group.lost:
                jobs += self._resends(group, most - len(jobs))
            if not (group.lost or group.resending or group.flushing):
                group.flushing = True
                covered = self.kept.by_group.get(group_id, {})
                jobs.append(FlushJob(group_id, self.stamp, frozenset(kept.verifier for kept in covered)))
        return jobs

    def flushed(self, job: FlushJob, verifier: int) -> None:
        """The group answered the FLUSH with this verifier."""
        group = self._groups[job.group]
        group.flushing = False
        for kept in list(self.kept.by_group.get(job.group, ())):
            if kept.stamp > job.stamp:
                continue
            if kept.verifier == verifier:
                self.kept.forget(kept)
            else:
                group.lost[kept] = None
        if job.verifiers <= {verifier}:
            group.durable = max(group.durable, job.stamp)
            if group.durable >= group.acknowledged:
                self._unsettled.pop(job.group, None)

    def flush_failed(self, job: FlushJob) -> None:
        self._groups[job.group].flushing = False

    def resent(self, job: ResendJob, verifiers: set[int]) -> list[Change]:
        """All runs were acknowledged, with these verifiers. Returns the changes whose turn it is now."""
        self.stamp += 1
        if len(verifiers) == 1:  # else it counts as lost again, at the next flush
            job.kept.verifier = next(iter(verifiers))
        job.kept.stamp = self.stamp
        self._touch(job.kept.group)
        return self._end_resend(job)

    def resend_failed(self, job: ResendJob) -> list[Change]:
        """Not all runs were acknowledged: it is still to be sent again."""
        self._groups[job.kept.group].lost[job.kept] = None
        return self._end_resend(job)

    def _resends(self, group: _Group, most: int) -> list[ResendJob]:
        jobs: list[ResendJob] = []
        for kept in list(group.lost):
            if len(jobs) >= most:
                break
            if kept.blocks == 0:  # overwritten since
                del group.lost[kept]
                continue
            job = ResendJob(kept, self.kept.runs(kept))
            if self._free(job):
                del group.lost[kept]
                group.resending += 1
                self._claims[job] = None
                jobs.append(job)
        return jobs

    def _end_resend(self, job: ResendJob) -> list[Change]:
        self._groups[job.kept.group].resending -= 1
        del self._claims[job]
        return self._admit_next()

    def _pending(self, group_id: GroupId, stamp: int) -> bool:
        group = self._groups[group_id]
        return group.durable < min(stamp, group.acknowledged)

    def _touch(self, group_id: GroupId) -> None:
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = _Group()
        group.acknowledged = self.stamp
        self._unsettled[group_id] = None
