"""Schedules that random runs hardly ever find: each is harmless with its rule and harmful without."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from daemon.core.messages import Fetch, Item, Join
from master.core.authority import Authority
from store.control.arbiter import Cas, ConfigIs, ConfigsAre, QueryReply
from store.errors import Status
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig
from tests.simulation.canaries import broken
from tests.simulation.stage import MASTER, Stage

WITH, WITHOUT = "with the rule", "without the rule"
both = pytest.mark.parametrize("rules", [WITH, WITHOUT])


def _rules(rules: str, name: str) -> contextlib.AbstractContextManager[None]:
    return broken(name) if rules == WITHOUT else contextlib.nullcontext()


def _is_cas(src: Any, dst: Any, m: object) -> bool:
    return isinstance(m, Cas)


@both
def test_a_secondary_that_asked_for_promotion_grants_no_more(rules: str) -> None:
    """R9: its proposal is on the way; a late beat of the old primary must not get a lease."""
    with _rules(rules, "promise"):
        stage = Stage(2)
        assert stage.write(0, 1) == Status.OK
        apart = stage.cut(0, 1)
        stage.hold(lambda src, dst, m: src == 0 and dst == MASTER)
        stage.hold(lambda src, dst, m: src == 1 and _is_cas(src, dst, m))
        stage.until(lambda: any(src == 1 and _is_cas(src, dst, m) for src, dst, m in stage.held))
        stage.heal(apart)
        stage.sleep(0.5)  # beats reach the secondary
        stage.cut(0, 1)
        stage.hold(lambda src, dst, m: src == MASTER and dst == 0)
        stage.pass_on(lambda src, dst, m: src == 1 and _is_cas(src, dst, m))
        stage.until(lambda: stage.in_sync(1) == [1])
        assert stage.write(1, 2) == Status.OK
        status, value = stage.read(0)
        stale = status == Status.OK and value == 1
        assert stale == (rules == WITHOUT)


@both
def test_a_proposed_learner_must_grant_leases_too(rules: str) -> None:
    """R22: in sync at the master, it may be promoted by the third member while the old primary has not heard of it."""
    with _rules(rules, "joint_lease"):
        stage = Stage(3)
        assert stage.write(0, 1) == Status.OK
        away = stage.hold(lambda src, dst, m: 1 in (src, dst))
        stage.until(lambda: stage.in_sync(0) == [0, 2])
        stage.heal(away)
        stage.hold(lambda src, dst, m: src == MASTER and dst in (0, 2) and isinstance(m, ConfigsAre))
        # The growth is decided, the primary does not know.
        stage.until(lambda: stage.in_sync(1) == [0, 1, 2] and stage.config(1).epoch > stage.config(0).epoch)
        stage.cut(0, 1)
        stage.hold(lambda src, dst, m: src == 0 and dst == MASTER)
        stage.hold(lambda src, dst, m: (src, dst) == (2, 0) and isinstance(m, ConfigsAre))
        stage.until(lambda: stage.config(1).primary.device == stage.devices[1])
        stage.until(lambda: stage.write(1, 2) == Status.OK)
        status, value = stage.read(0)
        stale = status == Status.OK and value == 1
        assert stale == (rules == WITHOUT)


@both
def test_a_restarted_member_has_synced_nothing_but_its_base(rules: str) -> None:
    """R16: the process that asked for the sync is gone, and so is the knowledge that it never ended."""
    with _rules(rules, "restart_sync"):
        stage = Stage(2)
        stage.slow_disk(1)
        assert stage.write(0, 1) is None
        node = stage.nodes[1]
        node.kill(power=False)
        node.start(lossless=True)
        stage.sleep(1.0)
        told = any(m.status == Status.OK for m in stage.recorder.answers)
        assert not any(getattr(op, "name", None) == b"x" for op in node.disk.platter().ops)
        assert told == (rules == WITHOUT)


@both
def test_durable_is_synced_on_every_member(rules: str) -> None:
    """R15: a write is not acknowledged while one in-sync disk may still lose it."""
    with _rules(rules, "sync_everywhere"):
        stage = Stage(2)
        stage.slow_disk(1)
        assert stage.write(0, 1, durable=True) is None
        stage.write(0, 2, key=b"y", durable=False)  # makes the secondary tell what it has matched
        told = any(m.sequence == 1 and m.status == Status.OK for m in stage.recorder.answers)
        assert told == (rules == WITHOUT)


@both
def test_only_the_latest_join_counts(rules: str) -> None:
    """R23: a learner that went back to its base is not credited with what it had before."""
    with _rules(rules, "join_attempt"):
        stage = Stage(2)
        assert stage.write(0, 1) == Status.OK
        away = stage.cut(0, 1)
        stage.until(lambda: stage.in_sync(0) == [0])
        for value in range(2, 6):
            assert stage.write(0, value) == Status.OK
        stage.heal(away)
        stage.hold(
            lambda src, dst, m: src == 1 and getattr(m, "kind", "") in ("acks", "oks")
        )  # it joins, and takes all
        stage.until(lambda: stage.group(1).log.last >= 5)
        primary = stage.group(0).primary
        (peer,) = primary.peers.values()
        peer.attempt += 1  # as after another join of the same who, from its base
        before = peer.matched
        stage.holds.clear()
        stage.pass_on(lambda src, dst, m: src == 1)
        stage.sleep(0.01)
        assert (peer.matched > before) == (rules == WITHOUT)


def test_a_delta_goes_back_to_the_base() -> None:
    """R24: what was applied behind the base does not count; the log is taken from there again."""
    stage = Stage(2)
    assert stage.write(0, 1) == Status.OK
    assert stage.write(0, 2, durable=False) == Status.OK
    away = stage.hold(lambda src, dst, m: 1 in (src, dst))
    stage.until(lambda: stage.in_sync(0) == [0])
    assert stage.write(0, 3) == Status.OK
    learner = stage.group(1)
    assert learner.commit > learner.base_n
    asked: list[int] = []
    objects = stage.nodes[1].objects
    rewind = objects.rewind

    def counted(group: Any) -> bytes | None:
        asked.append(group)
        return rewind(group)

    objects.rewind = counted  # type: ignore[method-assign]
    stage.heal(away)
    stage.until(lambda: stage.in_sync(0) == [0, 1])
    assert asked == [1]
    stage.sleep(1.0)
    assert stage.nodes[1].objects.applied[1] == stage.nodes[0].objects.applied[1]


@both
def test_the_base_never_holds_what_is_not_committed(rules: str) -> None:
    """R17: a record synced here and nowhere else may be cut; a base cannot be."""
    with _rules(rules, "apply_committed"):
        stage = Stage(3)
        assert stage.write(0, 1) == Status.OK
        stage.sleep(0.5)
        stage.cut(0, 2)
        stage.write(0, 2)  # reaches device 1 only: never committed
        stage.sleep(0.1)
        stage.checkpoint(1)
        node = stage.nodes[1]
        ahead = node.disk.bases[1].n > stage.group(0).commit
        assert ahead == (rules == WITHOUT)


@both
def test_nobody_is_promoted_while_a_lease_may_run(rules: str) -> None:
    """R9: the grace is longer than the lease, whatever the clocks do."""
    with _rules(rules, "long_grace"):
        stage = Stage(2)
        assert stage.write(0, 1) == Status.OK
        stage.cut(0, 1)
        stage.hold(lambda src, dst, m: MASTER in (src, dst) and 0 in (src, dst))
        stage.until(lambda: stage.in_sync(1) == [1])
        assert stage.write(1, 2) == Status.OK
        assert (stage.read(0) == (Status.OK, 1)) == (rules == WITHOUT)


@both
def test_a_primary_cut_off_reads_nothing_once_its_leases_are_over(rules: str) -> None:
    """R8."""
    with _rules(rules, "read_lease"):
        stage = Stage(2)
        assert stage.write(0, 1) == Status.OK
        stage.hold(lambda src, dst, m: 0 in (src, dst))
        stage.until(lambda: stage.in_sync(1) == [1])
        stage.holds.clear()
        stage.hold(lambda src, dst, m: 0 in (src, dst))
        stage.hold(lambda src, dst, m: False)
        assert stage.write(1, 2) == Status.OK
        assert (stage.read(0) == (Status.OK, 1)) == (rules == WITHOUT)


@both
def test_an_inventory_begins_with_the_tables(rules: str) -> None:
    """R25b: a record of the old lock holder lands behind the fence; only the tables of the copy's start refuse it."""
    with _rules(rules, "inventory_meta"):
        stage = Stage(3, retain=0)
        assert stage.write(0, 1) == Status.OK
        away = stage.hold(lambda src, dst, m: 1 in (src, dst))
        stage.until(lambda: stage.in_sync(0) == [0, 2])
        assert stage.write(0, 2) == Status.OK
        stage.checkpoint(0)  # trims the log: the learner will need an inventory
        joins = stage.hold(lambda src, dst, m: isinstance(m, Join))
        stage.heal(away)
        stage.until(lambda: any(isinstance(m, Join) for _, _, m in stage.held))
        answers = stage.hold(lambda src, dst, m: (src, dst) == (2, 0))
        stage.fence(0, 2)
        fenced_at = stage.group(0).log.last
        fence_acks = [entry for entry in stage.held if (entry[0], entry[1]) == (2, 0)]
        assert stage.write(0, 99, lock=1) is None
        stage.pass_on(lambda src, dst, m: any(m is entry[2] for entry in fence_acks))
        stage.until(lambda: stage.group(0).commit == fenced_at)
        fetches = stage.hold(lambda src, dst, m: isinstance(m, Fetch))
        stage.heal(joins)
        stage.until(lambda: any(isinstance(m, Fetch) for _, _, m in stage.held))  # the copy begins behind the fence
        stage.heal(answers)
        stage.pass_on(lambda src, dst, m: (src, dst) == (2, 0))
        stage.until(lambda: stage.group(0).commit > fenced_at)
        stage.heal(fetches)
        stage.until(lambda: stage.group(1).whole)
        stage.sleep(1.0)
        differs = stage.nodes[1].objects.applied[1] != stage.nodes[0].objects.applied[1]
        assert differs == (rules == WITHOUT)


@both
def test_no_copy_is_voided_while_a_former_life_of_it_counts(rules: str) -> None:
    """R23: the configuration still says that this disk has everything durable; an inventory would destroy that."""
    with _rules(rules, "join_named"):
        stage = Stage(2, retain=0)
        for value in range(3):
            assert stage.write(0, value) == Status.OK
        stage.checkpoint(0)  # trims the log: the learner would need an inventory
        stage.hold(_is_cas)  # the master cannot be asked to remove the former life
        stage.hold(lambda src, dst, m: isinstance(m, Item))  # an inventory would not come to its end
        node = stage.nodes[1]
        node.kill(power=True)
        node.start(lossless=False)
        stage.until(lambda: any(_is_cas(src, dst, m) for src, dst, m in stage.held))
        stage.sleep(1.0)
        assert stage.group(1).whole == (rules == WITH)


def test_a_restarted_secondary_needs_only_what_it_lacks() -> None:
    """It knows only its base, which the primary's log has left behind long since; its journal has everything."""
    stage = Stage(2, retain=2)
    for value in range(20):
        assert stage.write(0, value) == Status.OK
    stage.checkpoint(0)
    assert stage.group(0).log.after_n == 18
    epoch = stage.config(0).epoch
    stage.crash(1)
    assert stage.group(1).commit == 0
    stage.write(0, 20)
    stage.until(lambda: stage.group(1).commit >= 21, 1.5)
    assert stage.config(0).epoch == epoch
    assert stage.nodes[1].objects.applied[1] == stage.nodes[0].objects.applied[1]


@both
def test_closure_hears_every_member(rules: str) -> None:
    """R31: the only in-sync device of the master's snapshot has been rolled back too; another member knows better."""
    with _rules(rules, "closure_members"):
        a, b = DeviceId(b"a" * 16), DeviceId(b"b" * 16)
        group = GroupId(1)
        old = GroupConfig(0, 3, (a, b), Who(a, 1), (Who(a, 1),), 1)
        new = GroupConfig(0, 6, (a, b), Who(b, 2), (Who(b, 2),), 1)
        master = Authority({group: old}, {a: 1, b: 2})
        master.restore(1)
        master.receive(a, QueryReply(1, Who(a, 11), (ConfigIs(group, old),), (1, 11)))
        assert master.closing == (rules == WITH)
        master.receive(b, QueryReply(1, Who(b, 2), (ConfigIs(group, new),), (2,)))
        assert (master.configs[group].in_sync == new.in_sync) == (rules == WITH)
