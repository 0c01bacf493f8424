"""The router, answer by answer: which device is asked next, when, and what is final."""

import pytest

from store.client.operation import Operation
from store.client.routing import Router, Want
from store.client.sequences import Session
from store.errors import Status
from store.ids import DeviceId, GroupId, group_id
from store.limits import CLIENT_ATTEMPTS_MAX, CLIENT_BACKOFF_MAX_S, SEQUENCE_WINDOW
from store.wire.header import Op
from tests.client.daemons import POOL, Groups, cluster, storage_map

NOW = 50.0
GROUP = group_id(POOL, 0)


@pytest.fixture
def state() -> Groups:
    return cluster(NOW, [("d", port) for port in range(3)])[0]


@pytest.fixture
def router() -> Router:
    _, _, described = cluster(NOW, [("d", port) for port in range(3)])
    return Router(described, 7)


def device(number: int) -> DeviceId:
    return DeviceId(bytes([number + 1]) * 16)


def write(seconds: float = 60.0, scope: int = 0) -> Operation:
    return Operation(Op.WRITE, GROUP, b"x", NOW + seconds, payload=b"1", scope=scope, generation=1)


def started(router: Router, operation: Operation, now: float = NOW) -> Operation:
    assert router.start(now, operation)
    return operation


def settle(router: Router, operation: Operation, status: Status, now: float = NOW, data: bytes = b"") -> bool:
    return router.settle(now, operation, status, data)


def test_the_map_s_primary_is_asked_first(router: Router) -> None:
    operation = started(router, write())
    assert operation.device == device(0)
    assert settle(router, operation, Status.OK)
    assert operation.status == Status.OK


def test_a_redirect_is_followed_at_once_and_remembered(router: Router) -> None:
    operation = started(router, write())
    operation.order = 5
    assert not settle(router, operation, Status.REDIRECT, data=device(2))
    assert operation.not_before == NOW and operation.device == device(2)
    assert started(router, write()).device == device(2)


def test_a_redirect_of_an_older_order_is_followed_but_not_remembered(router: Router) -> None:
    operation = started(router, write())
    operation.order = 0
    assert not settle(router, operation, Status.REDIRECT, data=device(1))
    assert operation.device == device(1)
    assert started(router, write()).device == device(0)


def test_a_redirect_to_a_silent_device_goes_round_the_others_with_growing_pauses(router: Router) -> None:
    operation, asked, pauses, now = write(), [], [], NOW
    for _ in range(8):
        started(router, operation, now)
        router.suspect(now, device(0))
        asked.append(operation.device)
        operation.order = 1
        assert not settle(router, operation, Status.REDIRECT, now, device(0))
        pauses.append(operation.not_before - now)
        now = operation.not_before
    assert set(asked[1:]) == {device(1), device(2)}
    assert 0 < pauses[0] < pauses[-1] <= CLIENT_BACKOFF_MAX_S * 1.5


def test_without_an_answer_the_next_member_is_asked_and_the_outcome_is_in_doubt(router: Router) -> None:
    operation = started(router, write(seconds=1.0))
    assert not settle(router, operation, Status.TIMEOUT)
    assert operation.device == device(1) and Want.MAP in router.wants
    sequence = operation.sequence
    started(router, operation)
    assert operation.sequence == sequence
    assert settle(router, operation, Status.TIMEOUT, NOW + 1.0)
    assert operation.status == Status.TIMEOUT and operation.outcome_unknown


def test_busy_waits_as_told_and_longer_each_time(router: Router) -> None:
    operation = write()
    waits = []
    for _ in range(5):
        started(router, operation)
        operation.length = 100
        assert not settle(router, operation, Status.BUSY)
        waits.append(operation.not_before - NOW)
    assert 0.1 <= waits[0] <= 0.15 and waits == sorted(waits) and waits[-1] <= 5.0 * 1.5


def test_a_pause_beyond_the_deadline_is_the_end(router: Router) -> None:
    operation = started(router, write(seconds=0.05))
    operation.length = 100
    assert settle(router, operation, Status.BUSY)
    assert operation.status == Status.BUSY and not operation.outcome_unknown


def test_attempts_are_bounded(router: Router) -> None:
    operation = write(seconds=1e9)
    for _ in range(CLIENT_ATTEMPTS_MAX - 1):
        started(router, operation)
        assert not settle(router, operation, Status.UNKNOWN_GROUP)
    started(router, operation)
    assert settle(router, operation, Status.UNKNOWN_GROUP)
    assert operation.status == Status.UNAVAILABLE


def test_an_expired_ticket_is_renewed_and_a_denial_is_believed_the_second_time(router: Router) -> None:
    operation = started(router, write())
    assert not settle(router, operation, Status.EXPIRED)
    assert router.wants == {Want.TICKET}
    started(router, operation)
    assert not settle(router, operation, Status.DENIED)
    started(router, operation)
    assert settle(router, operation, Status.DENIED)
    assert operation.status == Status.DENIED


def test_a_new_serial_begins_anew_and_the_old_one_is_not_used_again(router: Router) -> None:
    operation = started(router, write(scope=3))
    assert not settle(router, operation, Status.NO_SESSION)
    assert router.wants == {Want.SESSION}
    assert not router.start(NOW + 1, operation)  # still the old serial
    router.reopen(8)
    started(router, operation, NOW + 1)
    assert operation.sequence == 1 and operation.table is not None and operation.table.serial == 8


def test_a_group_outside_of_the_map_waits_for_another_map(router: Router) -> None:
    operation = Operation(Op.STAT, GroupId(99 << 16), b"x", NOW + 60)
    assert not router.start(NOW, operation)
    assert router.wants == {Want.MAP}


def test_only_newer_maps_are_taken_and_what_was_learnt_since_stays(state: Groups) -> None:
    daemons = cluster(NOW, [("d", port) for port in range(3)])[1]
    router = Router(storage_map(state, daemons, epoch=5), 7)
    operation = started(router, write())
    operation.order = 9
    settle(router, operation, Status.REDIRECT, data=device(2))
    router.adopt(storage_map(state, daemons, epoch=4))
    assert router.storage_map.epoch == 5
    router.adopt(storage_map(state, daemons, epoch=6))
    assert started(router, write()).device == device(2)
    state.epoch[GROUP] = 10
    state.primary[GROUP] = device(1)
    router.adopt(storage_map(state, daemons, epoch=7))
    assert started(router, write()).device == device(1)


def test_the_window_and_the_floor() -> None:
    """R33: floors rise only as requests end, in whatever order they do."""
    table = Session(7).group(GROUP)
    taken = [table.take() for _ in range(SEQUENCE_WINDOW)]
    assert taken == list(range(1, SEQUENCE_WINDOW + 1))
    assert table.take() == 0
    table.release(5)
    assert table.take() == 0
    table.release(1)
    last = table.take()
    assert last == SEQUENCE_WINDOW + 1 and table.floor(last) == 2
    assert table.floor(taken[-1]) == 1  # as it was sent first
