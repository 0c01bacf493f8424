"""Judges of a run. Each raises Violation with one line that says what was wrong."""

from __future__ import annotations

from typing import Final, NamedTuple

from store.ids import Who

NEVER: Final = float("inf")
SEARCH_BUDGET: Final = 60_000  # states after which the linearizability search gives up


class ViolationError(Exception):
    """A promise of the system was broken in this run."""


class Call(NamedTuple):
    """One operation on a register, as a client saw it.

    `optional`: the outcome is unknown. It may have happened or not; if it did, then before `ended`.
    """

    began: float
    ended: float
    kind: str  # "w" sets the value, "a" adds one and tells the sum, "r" tells the value
    value: int | None
    optional: bool

    def step(self, held: int | None) -> tuple[bool, int | None]:
        """Could it take effect on this value, and what is there afterwards?"""
        if self.kind == "w":
            return True, self.value
        if self.kind == "a":
            total = (held or 0) + 1
            return self.value in (None, total), total
        return self.value == held, held


def linearizable(calls: list[Call]) -> bool | None:
    """Search for an order of the calls that one register explains (Wing & Gong, with memory of visited states).

    None: the search budget was used up.
    """
    calls = sorted(calls, key=lambda call: (call.began, call.ended))
    needed = sum(1 << i for i, call in enumerate(calls) if not call.optional)
    seen: set[tuple[int, int | None]] = set()
    stack: list[tuple[int, int | None, float]] = [(0, None, -1.0)]
    while stack:
        done, held, latest = stack.pop()
        if done & needed == needed:
            return True
        if (done, held) in seen:
            continue
        seen.add((done, held))
        if len(seen) > SEARCH_BUDGET:
            return None
        for i in _next(calls, done, latest):
            possible, after = calls[i].step(held)
            if possible:
                stack.append((done | 1 << i, after, max(latest, calls[i].began)))
    return False


def _next(calls: list[Call], done: int, latest: float) -> list[int]:
    """Calls that may come next: none that began after another undone one had ended."""
    bound, ready = NEVER, []
    for i, call in enumerate(calls):
        if done >> i & 1:
            continue
        if call.began > bound:
            break
        if call.optional:
            if call.ended >= latest:
                ready.append(i)
        else:
            ready.append(i)
            bound = min(bound, call.ended)
    return [i for i in ready if calls[i].began <= bound]


class Op:
    """A register operation while it is under way."""

    __slots__ = ("began", "ended", "kind", "optional", "value")

    def __init__(self, began: float, kind: str, value: int | None) -> None:
        self.began = began
        self.ended = NEVER
        self.kind = kind
        self.value = value
        self.optional = True


class Registers:
    """Histories of the durable objects."""

    def __init__(self) -> None:
        self.ops: dict[bytes, list[Op]] = {}

    def begin(self, now: float, key: bytes, kind: str, value: int | None) -> Op:
        op = Op(now, kind, value)
        self.ops.setdefault(key, []).append(op)
        return op

    def check(self) -> int:
        """How many histories were too long to judge."""
        unsure = 0
        for key in sorted(self.ops):
            ops = [op for op in self.ops[key] if not (op.kind == "r" and op.optional)]
            verdict = linearizable([Call(op.began, op.ended, op.kind, op.value, op.optional) for op in ops])
            if verdict is False:
                raise ViolationError(f"not linearizable: {key!r}")
            unsure += verdict is None
        return unsure


class Image:
    """Blocks of one image: one tenant at a time, sequential per block; and what a later tenant may find."""

    def __init__(self, blocks: tuple[bytes, ...]) -> None:
        self.may: dict[bytes, list[int | None]] = {b: [None] for b in blocks}  # stable value first, then later writes
        self.now: dict[bytes, int | None] = dict.fromkeys(blocks)  # what the tenant must read; absent = any of `may`
        self.tenure = 0
        self.began = 0.0

    def begin(self, now: float, lock: int) -> None:
        if lock > self.tenure:
            self.tenure, self.began = lock, now
            self.now = {}

    def wrote(self, lock: int, block: bytes, value: int) -> None:
        if lock == self.tenure:
            self.may[block].append(value)

    def acked(self, lock: int, issued: float, block: bytes, value: int) -> None:
        self._fenced(lock, issued, "write")
        if lock == self.tenure:
            self.now[block] = value

    def read(self, lock: int, issued: float, block: bytes, value: int | None) -> None:
        self._fenced(lock, issued, "read")
        if lock != self.tenure:
            return
        if block in self.now:
            if self.now[block] != value:
                raise ViolationError(f"image: block {block!r} read {value}, the tenant had {self.now[block]}")
        elif value not in self.may[block]:
            raise ViolationError(f"image: block {block!r} lost a flushed write: {value} not in {self.may[block]}")
        else:
            self.now[block], self.may[block] = value, [value]

    def flushed(self, lock: int, block: bytes, value: int) -> None:
        if lock == self.tenure and value in self.may[block]:
            self.may[block] = self.may[block][self.may[block].index(value) :]

    def _fenced(self, lock: int, issued: float, what: str) -> None:
        if lock < self.tenure and issued > self.began:
            raise ViolationError(f"fence: a {what} of lock {lock} succeeded under lock {self.tenure}")


class Epochs:
    """At most one primary acts in a group's epoch."""

    def __init__(self) -> None:
        self.acted: dict[tuple[int, int], Who] = {}

    def act(self, group: int, order: int, who: Who) -> None:
        first = self.acted.setdefault((group, order), who)
        if first != who:
            raise ViolationError(f"two primaries acted in group {group} under order {order}")
