"""Properties of every codec: what goes in comes out, and garbage raises `Malformed` and nothing else."""

from collections.abc import Callable
from random import Random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.limits import BURST_MAX, DATAGRAM_MAX, DATAGRAM_MIN, OBJECT_MAX, REPLAY_WINDOW
from store.wire.cut import answer_size, fragment_start, fragments
from store.wire.header import RANGE, REPLY, REQUEST, Malformed, Op
from store.wire.message import (
    HEADROOM,
    Request,
    pack_request,
    parse_probe,
    parse_probe_ack,
    parse_reply,
    parse_request,
    parse_retry,
)
from store.wire.ranges import Ranges
from store.wire.replay import ReplayWindow, pack_ack, parse_ack
from store.wire.seal import InvalidTag, cipher, datagrams, seal, ticket_end
from tests.wire.messages import EXAMPLES

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
SIZES: Final = st.integers(DATAGRAM_MIN, DATAGRAM_MAX)


def parsed(message: bytes) -> Request:
    request = Request()
    parse_request(request, memoryview(bytes(HEADROOM) + message), 100.0)
    return request


@given(
    op=st.integers(Op.WRITE, 255), flags=U8, number=U32, group=U32, name=st.binary(max_size=1024), left=U32, order=U64,
    sequence=U64, scope=U64, generation=U32, offset=U32, size=U32, span=U16, delay=U8, payload=st.binary(max_size=300),
)
def test_a_mutation_comes_out_as_it_went_in(
    op: int, flags: int, number: int, group: int, name: bytes, left: int, order: int, sequence: int, scope: int,
    generation: int, offset: int, size: int, span: int, delay: int, payload: bytes,
) -> None:
    span = min(span, sequence)
    head = pack_request(
        op, flags, number, group, name, left=left, order=order, sequence=sequence, scope=scope, generation=generation,
        offset=offset, size=size, span=span, ack_delay=delay,
    )
    got = parsed(bytes(head) + payload)
    assert (got.op, got.flags, got.number, got.group, got.name) == (op, flags, number, group, name)
    assert (got.order, got.sequence, got.floor, got.scope) == (order, sequence, sequence - span, scope)
    assert (got.generation, got.offset, got.size, got.ack_delay) == (generation, offset, size, delay)
    assert bytes(got.payload) == payload and bytes(got.body[88:]) == name + payload
    assert got.deadline == pytest.approx(100 + left / 1000)


@given(
    size=SIZES,
    ranges=st.lists(st.tuples(st.integers(0, OBJECT_MAX), st.integers(1, BURST_MAX)), min_size=1, max_size=70),
)
def test_a_read_is_taken_if_its_answer_fits_one_burst(size: int, ranges: list[tuple[int, int]]) -> None:
    head = pack_request(
        Op.READ, 0, 1, 1, b"o", left=1, order=0, sequence=0, scope=0, generation=0, offset=0, size=0, span=size,
        ack_delay=0,
    )
    message = bytes(head) + b"".join(RANGE.pack(*part) for part in ranges)
    wire = sum(answer_size(length, size) for _, length in ranges)
    count = sum(fragments(length, size) for _, length in ranges)
    fits = (
        sum(length for _, length in ranges) <= BURST_MAX and wire <= 65_507 and count <= 64 and len(ranges) <= 64
        and all(offset + length <= OBJECT_MAX for offset, length in ranges)
    )
    if fits:
        got = parsed(message)
        assert (got.ranges, got.wire) == (tuple(ranges), wire)
    else:
        with pytest.raises(Malformed):
            parsed(message)


@given(length=st.integers(1, 300_000), size=SIZES)
def test_the_cut_covers_a_range_without_gap_or_overlap(length: int, size: int) -> None:
    count = fragments(length, size)
    starts = [fragment_start(index, size) for index in range(count + 1)]
    assert starts[0] == 0 and starts[count - 1] < length <= starts[count]
    for index in range(count):
        room = size - 28 - 40 - 16 - (24 if index % 16 == 0 else 0)
        assert starts[index + 1] - starts[index] == room


@given(steps=st.lists(st.one_of(st.just(1), st.integers(-80, 80), st.integers(-5000, 5000)), max_size=200), first=U32)
@settings(max_examples=200)
def test_the_replay_window_remembers_each_number_once(steps: list[int], first: int) -> None:
    window = ReplayWindow(first)
    seen = {first}
    assert not window.add(first)
    number = first
    for step in steps:
        number = max(0, number + step)
        known = number in seen or number <= max(seen) - REPLAY_WINDOW
        assert window.has(number) is known
        if not known:
            window.add(number)
            seen.add(number)
    top, clock, credit, bitmap = parse_ack(memoryview(pack_ack(window, 5, 6)))
    assert (top, clock, credit) == (max(seen), 5, 6)
    for bit in range(1025):
        other = top - 1024 + bit
        assert bool(bitmap >> bit & 1) is (other in seen or other < 0)


@given(spans=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), max_size=60))
def test_ranges_are_a_set(spans: list[tuple[int, int]]) -> None:
    ranges, reference = Ranges(), set[int]()
    for start, length in spans:
        new = set(range(start, start + length)) - reference
        assert ranges.add(start, start + length) == len(new)
        reference |= new
    assert ranges.total == len(reference)
    missing = {number for low, high in ranges.missing(10, 300) for number in range(low, high)}
    assert missing == set(range(10, 300)) - reference


@given(body=st.binary(max_size=2000), ticket=st.binary(max_size=300), packet=U64, life=U32, session=U64, clock=U32)
def test_a_sealed_datagram_opens(
    body: bytes, ticket: bytes, packet: int, life: int, session: int, clock: int
) -> None:
    key = cipher(bytes(16))
    block = len(ticket).to_bytes(2, "little") + ticket
    start = 28 + len(block)
    buffer = bytearray(start + len(body) + 16)
    buffer[28:start] = block
    buffer[start : start + len(body)] = body
    seal(key, memoryview(buffer), 0, start, len(buffer), 0x81, clock, session, packet, life)
    ((_, kind, end, *fields),) = datagrams(memoryview(buffer))
    assert fields == [clock, session, packet, life]
    at = ticket_end(memoryview(buffer), 0, kind, end)
    assert at == start
    nonce = life.to_bytes(4, "little") + packet.to_bytes(8, "little")
    assert key.decrypt(nonce, bytes(buffer[at:end]), bytes(buffer[:at])) == body


def test_garbage_raises_malformed_and_nothing_else() -> None:
    """Every decoder: random bytes, and examples with bytes changed, cut off or added."""
    random = Random(20_240_229)
    decoders: list[Callable[[bytes], object]] = [
        parsed, lambda data: parse_reply(memoryview(data)), lambda data: parse_ack(memoryview(data)),
        lambda data: parse_retry(memoryview(data)), lambda data: parse_probe(memoryview(data)),
        lambda data: parse_probe_ack(memoryview(data)),
    ]
    examples = [make() for make in EXAMPLES.values()]
    refused = 0
    for turn in range(30_000):
        if turn % 3 == 0:
            data = bytearray(random.randbytes(random.choice([0, 1, 8, 17, 18, 26, 44, 64, 65, 100, 300])))
        else:
            data = bytearray(random.choice(examples))
            for _ in range(random.randrange(1, 4)):
                if data:
                    data[random.randrange(len(data))] = random.randrange(256)
            if turn % 3 == 1:
                del data[random.randrange(len(data) + 1) :]
        for decoder in decoders:
            try:
                decoder(bytes(data))
            except Malformed:
                refused += 1
        for start, kind, end, *_ in datagrams(memoryview(data)):
            assert 0 <= start < end <= len(data) and end - start >= 44
            assert ticket_end(memoryview(data), start, kind, end) <= end - 16
    assert refused > 60_000


def test_no_changed_datagram_opens() -> None:
    random = Random(7)
    for name in ("datagram.request", "datagram.ticketed", "datagram.reply", "datagram.empty"):
        original = EXAMPLES[name]()
        for _ in range(500):
            data = bytearray(original)
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            view = memoryview(data)
            for start, kind, end, _, _, packet, life in datagrams(view):
                at = ticket_end(view, start, kind, end)
                if at < 0:
                    continue
                nonce = life.to_bytes(4, "little") + packet.to_bytes(8, "little")
                with pytest.raises(InvalidTag):
                    cipher(bytes(range(16))).decrypt(nonce, view[at:end], view[start:at])


def test_a_reply_s_data_is_as_long_as_it_says() -> None:
    for length in (0, 1, 500, 60_000):
        body = bytes(REPLY.pack(0, 0, length, 1, 2, 3, 4, 5, 6)) + bytes(length)
        assert len(parse_reply(memoryview(body))[7]) == length
        for wrong in (body + b"x", body[:-1]):
            with pytest.raises(Malformed):
                parse_reply(memoryview(wrong))
    with pytest.raises(Malformed):
        parsed(bytes(REQUEST.size - 1))
