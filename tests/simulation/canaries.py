"""Known-broken variants: each removes one rule by replacing the method that keeps it.

A checker that never fails proves nothing. For every rule of REPLICATION.md that can be removed by itself there is a
canary, with the features that the rule is about; `canary_seeds.txt` names seeds in which it is caught.
"""

from __future__ import annotations

from tests.simulation import canaries_log, canaries_members
from tests.simulation.canary import REGISTERED, broken


def names() -> list[str]:
    return list(REGISTERED)


def features_of(rule: str) -> tuple[str, ...]:
    return REGISTERED[rule][0]


__all__ = ["broken", "canaries_log", "canaries_members", "features_of", "names"]
