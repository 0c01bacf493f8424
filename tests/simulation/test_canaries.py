"""Every rule that can be removed is missed: a checker that never fails proves nothing."""

from __future__ import annotations

import pytest

from tests.simulation import canaries, catch
from tests.simulation.run import run_seed

DIRECTED = {  # too rare for random schedules: caught in test_directed.py
    "promise",
    "joint_lease",
    "restart_sync",
    "sync_everywhere",
    "join_attempt",
    "apply_committed",
    "inventory_meta",
    "join_named",
    "closure_members",
    "long_grace",
    "read_lease",
}
ARGUED = {  # see REPLICATION.md, 'Canaries'
    "mid_delta_base",
    "ack_lease",
}


@pytest.mark.parametrize("row", catch.read(), ids=lambda row: "+".join(row.rules))
def test_the_removal_of_a_rule_is_caught(row: catch.Caught) -> None:
    if not row.seeds:
        assert set(row.rules) <= DIRECTED | ARGUED
        return
    features = canaries.features_of(row.rules[0])
    with canaries.broken(*row.rules):
        problems = [run_seed(seed, features) for seed in row.seeds]
    assert any(problems), "no longer caught: run python -m tests.simulation.catch"


@pytest.mark.parametrize("row", catch.read(), ids=lambda row: "+".join(row.rules))
def test_the_same_histories_are_fine_with_all_rules(row: catch.Caught) -> None:
    for seed in row.seeds:
        assert run_seed(seed, canaries.features_of(row.rules[0])) is None


def test_every_canary_has_a_row() -> None:
    assert {row.rules[0] for row in catch.read() if len(row.rules) == 1} == set(canaries.names())
