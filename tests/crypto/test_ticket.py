"""Tickets: their bytes, what they allow, and that no bytes can do worse than be refused."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store.crypto.ticket import ANY_POOL, Cap, Right, Ticket, TicketInvalid, open_ticket, seal_ticket
from store.limits import CAPS_MAX, TICKET_MAX
from store.wire.header import Op

SMALL = Ticket(1, b"c" * 16, "admin", 1 << 48 | 5, 1, 1_800_000_000, (Cap(ANY_POOL, 7),))
MUTATIONS = [op for op in Op if op >= Op.WRITE and op not in (Op.FLUSH, Op.FENCE)]


def test_golden_bytes() -> None:
    assert seal_ticket(SMALL).hex() == (
        "97" "01" "c410" + "63" * 16 + "a561646d696e" "cf0001000000000005" "01" "ce6b49d200" "91" "93" "00" "07" "c400"
    )  # fmt: skip
    assert open_ticket(seal_ticket(SMALL)) == SMALL
    assert open_ticket(memoryview(seal_ticket(SMALL))) == SMALL


def with_caps(*caps: Cap) -> Ticket:
    return msgspec.structs.replace(SMALL, caps=caps)


def test_rights_by_operation() -> None:
    reader, writer, lister = (with_caps(Cap(1, int(right))) for right in (Right.READ, Right.WRITE, Right.LIST))
    for op in (Op.READ, Op.STAT):
        assert reader.allows(1, op, b"x") and not writer.allows(1, op, b"x") and not lister.allows(1, op, b"x")
    for op in MUTATIONS:
        assert writer.allows(1, op, b"x") and not reader.allows(1, op, b"x") and not lister.allows(1, op, b"x")
    assert lister.allows(1, Op.LIST, b"") and not reader.allows(1, Op.LIST, b"")
    assert not with_caps(Cap(1, int(Right.ADMIN))).allows(1, Op.READ, b"x")


def test_pool_and_prefix() -> None:
    limited = with_caps(Cap(1, 7, b"book."), Cap(2, int(Right.READ)))
    assert limited.allows(1, Op.WRITE, b"book.17") and not limited.allows(1, Op.WRITE, b"boo")
    assert not limited.allows(3, Op.WRITE, b"book.17") and not limited.allows(2, Op.WRITE, b"book.17")
    assert limited.allows(2, Op.READ, b"anything")
    assert limited.allows(1, Op.LIST, b"book.1") and not limited.allows(1, Op.LIST, b"")


def test_flush_and_fence_name_nothing() -> None:
    limited = with_caps(Cap(1, int(Right.WRITE), b"book."))
    for op in (Op.FLUSH, Op.FENCE):
        assert limited.allows(1, op, b"") and not limited.allows(2, op, b"")
        assert not with_caps(Cap(1, int(Right.READ))).allows(1, op, b"")


@given(st.integers(-5, 300))
def test_unknown_operations_are_refused(op: int) -> None:
    assert SMALL.allows(1, op, b"x") == (op in {int(known) for known in Op})


def test_what_does_not_fit_is_not_sealed() -> None:
    with pytest.raises(TicketInvalid, match="larger than"):
        seal_ticket(with_caps(Cap(1, 7, b"p" * TICKET_MAX)))
    with pytest.raises(TicketInvalid):
        seal_ticket(with_caps(*[Cap(pool, 7) for pool in range(CAPS_MAX + 1)]))


@given(st.binary(max_size=TICKET_MAX + 10))
@example(seal_ticket(SMALL)[:-1])
@example(seal_ticket(SMALL) + b"\x00")
@example(msgspec.msgpack.encode(msgspec.structs.replace(SMALL, version=2)))
@example(msgspec.msgpack.encode(msgspec.structs.replace(SMALL, cluster=b"short")))
def test_any_bytes_are_a_ticket_or_refused(data: bytes) -> None:
    with pytest.raises(TicketInvalid):
        open_ticket(data)
