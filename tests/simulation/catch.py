"""python -m tests.simulation.catch COUNT [rule ...]

How often is the removal of each rule caught in COUNT seeds? Without rules named: all, and canary_seeds.txt is written
anew. To be run after a change of the cores or of the simulation: seeds mean other histories then.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from tests.simulation import canaries
from tests.simulation.explore import explore

SEEDS = Path(__file__).with_name("canary_seeds.txt")
KEPT = 4  # seeds remembered for each rule


class Caught(NamedTuple):
    rules: tuple[str, ...]
    caught: int
    of: int
    seeds: tuple[int, ...]

    def line(self) -> str:
        return f"{'+'.join(self.rules)} {self.caught}/{self.of} {' '.join(map(str, self.seeds))}".rstrip()


def read() -> list[Caught]:
    """What the file remembers."""
    rows = []
    for line in SEEDS.read_text().splitlines():
        rules, share, *seeds = line.split()
        caught, of = share.split("/")
        rows.append(Caught(tuple(rules.split("+")), int(caught), int(of), tuple(map(int, seeds))))
    return rows


def catch(rules: tuple[str, ...], count: int) -> Caught:
    failed = explore(0, count, canaries.features_of(rules[0]), rules)
    return Caught(rules, len(failed), count, tuple(sorted(failed))[:KEPT])


def main(arguments: list[str]) -> int:
    count, chosen = int(arguments[0]), arguments[1:]
    names = chosen or [*canaries.names(), "cas_before_ack+ack_lease"]
    rows = []
    for name in names:
        row = catch(tuple(name.split("+")), count)
        print(row.line(), flush=True)
        rows.append(row)
    if not chosen:
        SEEDS.write_text("".join(row.line() + "\n" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
