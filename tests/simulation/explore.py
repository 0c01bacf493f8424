"""python -m tests.simulation.explore FIRST COUNT [+feature ...] [rule ...]

Runs seeds, with the features forced and the named rules removed, on all processors; prints what was found.
`python -m tests.simulation.explore --trace SEED [...]` prints one run.
"""

from __future__ import annotations

import collections
import multiprocessing
import sys
import time
from functools import partial

from tests.simulation.canaries import broken
from tests.simulation.run import run_seed


def explore(first: int, count: int, features: tuple[str, ...], rules: tuple[str, ...]) -> dict[int, str]:
    """The seeds that failed and why."""
    work = partial(_one, features=features, rules=rules)
    with multiprocessing.get_context("spawn").Pool() as pool:
        results = pool.imap(work, range(first, first + count), chunksize=16)
        return {seed: problem for seed, problem in results if problem}


def _one(seed: int, features: tuple[str, ...], rules: tuple[str, ...]) -> tuple[int, str | None]:
    with broken(*rules):
        return seed, run_seed(seed, features)


def main(arguments: list[str]) -> int:
    """Exit status 1 when a seed failed with all rules in force."""
    tracing = arguments[0] == "--trace"
    if tracing:
        arguments = arguments[1:]
    numbers = [int(a) for a in arguments if a.lstrip("-").isdigit()]
    features = tuple(a[1:] for a in arguments if a.startswith("+"))
    rules = tuple(a for a in arguments if a[0].isalpha())
    if tracing:
        trace: list[str] = []
        with broken(*rules):
            problem = run_seed(numbers[0], features, trace)
        print(*trace, problem, sep="\n")
        return 0
    began = time.monotonic()
    failed = explore(numbers[0], numbers[1], features, rules)
    print(f"{','.join(rules) or 'all rules'} {' '.join(features)}: {numbers[1]} seeds, {len(failed)} failed, "
          f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    kinds = collections.Counter(":".join(problem.split(":")[:2])[:80] for problem in failed.values())
    for kind, times in kinds.most_common(8):
        seeds = [seed for seed, problem in failed.items() if problem.startswith(kind)][:6]
        print(f"    {times} {kind} {seeds}")
    return int(bool(failed) and not rules)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
