"""What the master's arbiter grants, and that nothing is shown before it is durable."""

from __future__ import annotations

import msgspec
import pytest

from master.core.authority import Authority, Persist, Push
from store.control.arbiter import Cas, ConfigIs, ConfigsAre, GetConfig, Query, QueryReply, Refresh, Register, Registered
from store.errors import ConfigError
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig

A, B, C = (DeviceId(name * 16) for name in (b"a", b"b", b"c"))
GROUP = GroupId(7)


def authority() -> Authority:
    new = Authority({}, {A: 1, B: 2, C: 3})
    new.create(GROUP, (A, B, C), A)
    new.effects()
    return new


def cas(held: Authority, who: Who, kind: str, history: tuple[int, ...] = (), **changes: object) -> bool:
    """Propose; True if it was granted."""
    before = held.configs[GROUP]
    new = msgspec.structs.replace(before, epoch=before.epoch + 1, **changes)
    held.receive(who.device, Cas(GROUP, who, kind, before.order, new, history))
    return held.configs[GROUP].order > before.order


def test_changes_are_durable_before_they_are_shown() -> None:
    held = authority()
    assert cas(held, Who(A, 1), "shrink", in_sync=(Who(A, 1), Who(B, 2)))
    first, *rest = held.effects()
    assert isinstance(first, Persist)
    assert first.configs == {GROUP: held.configs[GROUP]}
    assert {push.device for push in rest if isinstance(push, Push)} == {A, B, C}


def test_only_the_primary_shrinks_grows_and_touches() -> None:
    held = authority()
    assert not cas(held, Who(B, 2), "shrink", in_sync=(Who(A, 1), Who(B, 2)))
    assert cas(held, Who(A, 1), "shrink", in_sync=(Who(A, 1),))
    assert not cas(held, Who(A, 1), "grow", in_sync=(Who(A, 1), Who(B, 9)))  # not the incarnation known
    assert cas(held, Who(A, 1), "grow", in_sync=(Who(A, 1), Who(B, 2)))
    assert cas(held, Who(A, 1), "touch")
    assert not cas(held, Who(A, 1), "touch", continuity=9)
    assert not cas(held, Who(A, 1), "shrink", in_sync=(Who(B, 2),))  # primary no longer in sync


def test_a_stale_or_repeated_proposal_changes_nothing() -> None:
    held = authority()
    before = held.configs[GROUP]
    new = msgspec.structs.replace(before, epoch=2, in_sync=(Who(A, 1),))
    proposal = Cas(GROUP, Who(A, 1), "shrink", before.order, new, ())
    held.receive(A, proposal)
    granted = held.configs[GROUP]
    held.receive(A, proposal)
    assert held.configs[GROUP] == granted


def test_promotion_takes_the_old_primary_out() -> None:
    held = authority()
    assert not cas(held, Who(B, 2), "promote", primary=Who(B, 2), in_sync=(Who(B, 2),))
    assert cas(held, Who(B, 2), "promote", primary=Who(B, 2), in_sync=(Who(B, 2), Who(C, 3)))


def test_members_are_the_operators() -> None:
    held = authority()
    assert cas(held, Who(A, 1), "touch", members=(A,))
    assert held.configs[GROUP].members == (A, B, C)
    held.replace(GROUP, (A, B))
    assert held.configs[GROUP].members == (A, B)
    with pytest.raises(ConfigError, match="complete copy"):
        held.replace(GROUP, (DeviceId(b"d" * 16),))


def test_a_revival_needs_the_named_incarnation_in_the_history_and_another_verifier() -> None:
    held = authority()
    held.receive(B, Register(B, (2,), 22))
    me = Who(B, 22)
    assert not cas(held, me, "revive", (2,), primary=me, in_sync=(me,))
    assert not cas(held, me, "revive", (1,), primary=me, in_sync=(me,), continuity=2)
    assert cas(held, me, "revive", (2,), primary=me, in_sync=(me,), continuity=2)


@pytest.mark.parametrize(
    ("message", "accepted"),
    [
        (Register(A, (1,), 11), True),
        (Register(A, (), 1), True),  # asked again
        (Register(A, (5,), 11), False),  # an old image
        (Register(A, (), 11), False),  # wiped
        (Register(A, (), 11, fresh=1), True),
        (Register(A, (), 11, fresh=5), False),  # a delayed copy
        (Register(DeviceId(b"n" * 16), (), 11), True),  # never seen
        (Register(DeviceId(b"n" * 16), (4,), 11), False),  # with a past of which nothing is known here
        (Register(DeviceId(b"n" * 16), (), 11, fresh=0), True),
    ],
)
def test_registration_is_a_compare_and_set(message: Register, accepted: bool) -> None:
    held = authority()
    held.receive(message.device, message)
    answer = held.effects()[-1]
    assert isinstance(answer, Push) and isinstance(answer.message, Registered)
    assert answer.message.accepted == accepted


def test_refresh_tells_what_differs_or_is_missing() -> None:
    held = authority()
    order = held.configs[GROUP].order_token
    held.receive(A, Refresh(A, ((GROUP, order),)))
    assert held.effects() == []
    for orders in ((), ((GROUP, order - 1),)):
        held.receive(A, Refresh(A, orders))
        (push,) = held.effects()
        assert isinstance(push, Push) and push.message == ConfigsAre((ConfigIs(GROUP, held.configs[GROUP]),))


def test_a_restored_master_decides_nothing_before_closure() -> None:
    held = authority()
    snapshot = held.configs[GROUP]
    held.restore(1)
    asked = [push for push in held.effects() if isinstance(push, Push) and isinstance(push.message, Query)]
    assert [push.device for push in asked] == [A, B, C]
    held.receive(A, GetConfig(GROUP))
    assert not cas(held, Who(A, 1), "touch")
    newer = msgspec.structs.replace(snapshot, epoch=5, in_sync=(Who(A, 1), Who(B, 22)))
    held.receive(A, QueryReply(1, Who(A, 1), (ConfigIs(GROUP, newer),), (1,)))
    held.receive(B, QueryReply(1, Who(B, 22), (ConfigIs(GROUP, newer),), (2, 22)))
    assert held.closing and held.waits_for() == [C]
    held.receive(C, QueryReply(1, Who(C, 3), (ConfigIs(GROUP, snapshot),), (3,)))
    assert not held.closing
    assert held.configs[GROUP] == msgspec.structs.replace(newer, generation=1, epoch=6)
    assert held.incarnations[B] == 22


def test_a_device_that_never_returns_is_declared_lost() -> None:
    held = authority()
    held.restore(1)
    config = held.configs[GROUP]
    for who in (Who(A, 1), Who(B, 2)):
        held.receive(who.device, QueryReply(1, who, (ConfigIs(GROUP, config),), (who.incarnation,)))
    assert held.closing
    held.declare_lost(C)
    assert not held.closing


def test_groups_need_registered_devices() -> None:
    held = authority()
    with pytest.raises(ConfigError, match="registered"):
        held.create(GroupId(8), (A, DeviceId(b"n" * 16)), A)
    with pytest.raises(ConfigError, match="exists"):
        held.create(GROUP, (A,), A)
    assert isinstance(held.create(GroupId(8), (B, C), C), GroupConfig)
