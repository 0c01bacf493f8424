"""The bytes of every message, pinned: whoever changes them breaks programs that are running."""

from pathlib import Path

import pytest

from store.wire.header import (
    DATA,
    ECHO,
    FRAGMENT,
    HEADER,
    HOLE,
    NONCE,
    RANGE,
    REPLY,
    REQUEST,
    TAG,
    Malformed,
    Op,
)
from store.wire.message import HEADROOM, Request, parse_probe, parse_probe_ack, parse_reply, parse_request, parse_retry
from store.wire.replay import parse_ack
from store.wire.seal import cipher, datagrams, ticket_end
from tests.wire.messages import EXAMPLES, KEY, LIFE, SESSION, write

LINES = (Path(__file__).parent / "golden.txt").read_text().splitlines()
GOLDEN = {name: bytes.fromhex(digits) for name, digits in (line.split() for line in LINES if line[:1] not in ("", "#"))}


@pytest.mark.parametrize("name", EXAMPLES)
def test_bytes_are_what_they_always_were(name: str) -> None:
    assert EXAMPLES[name]().hex() == GOLDEN[name].hex()


def test_every_vector_has_its_example() -> None:
    assert GOLDEN.keys() == EXAMPLES.keys()


def opened(name: str) -> memoryview:
    return memoryview(GOLDEN[name])


def test_requests_are_understood() -> None:
    request = Request()
    parse_request(request, memoryview(bytes(HEADROOM) + GOLDEN["request.write"]), 10.0)
    assert (request.op, request.flags, request.number, request.group) == (Op.WRITE, 1, 7, 1 << 16 | 5)
    assert (request.name, bytes(request.payload)) == (b"image.12", b"payload")
    assert (request.sequence, request.floor, request.scope, request.generation) == (100, 64, 0xABCDEF, 4)
    assert (request.offset, request.size, request.order, request.deadline) == (8192, 0, 3 << 32 | 9, 40.0)
    assert bytes(request.body) == bytes(88 - 64) + GOLDEN["request.write"]
    parse_request(request, memoryview(bytes(HEADROOM) + GOLDEN["request.read"]), 10.0)
    assert request.ranges == ((4096, 4096), (65_536, 1))
    assert (request.sequence, request.floor, request.fragment) == (77, 0, 1400)


def test_answers_are_understood() -> None:
    number, status, order, verifier, version, stamp, size, data = parse_reply(opened("reply"))
    assert (number, status, order, verifier, version) == (7, 8, 3 << 32 | 9, 55, 9 << 40 | 12)
    assert (stamp, size, bytes(data)) == (0x0102030405060708, 4096, b"abc")
    assert parse_retry(opened("retry")) == 0x0102030405060708
    assert parse_probe(opened("probe")) == (0x0102030405060708, 8192)
    assert parse_probe_ack(opened("probe_ack")) == (41, 8192)


@pytest.mark.parametrize(
    ("name", "missing", "size"), [("ack", (), 8), ("ack.gaps", (2990, 2995, 2900), 13), ("ack.old-gap", (2500,), 63)]
)
def test_an_ack_is_a_copy_of_the_replay_window(name: str, missing: tuple[int, ...], size: int) -> None:
    top, clock, credit, bitmap = parse_ack(opened(name))
    assert (top, clock, credit) == (2999, 123_456, 65_536)
    assert [2999 - 1024 + bit for bit in range(1025) if not bitmap >> bit & 1] == sorted(missing)
    assert len(GOLDEN[name]) == 18 + size


@pytest.mark.parametrize(
    ("name", "body", "ticket"),
    [("datagram.request", write(), b""), ("datagram.ticketed", write(), b"a ticket's bytes")],
)
def test_datagrams_open_with_their_key_and_nonce(name: str, body: bytes, ticket: bytes) -> None:
    view = memoryview(GOLDEN[name])
    ((start, kind, end, clock, session, packet, life),) = datagrams(view)
    assert (start, end, clock, session, life) == (0, len(view), 1_000_000, SESSION, 0)
    at = ticket_end(view, start, kind, end)
    assert bytes(view[HEADER.size + 2 : at]) == ticket
    assert cipher(KEY).decrypt(NONCE.pack(life, packet), view[at:end], view[:at]) == body


def test_several_datagrams_in_one_buffer_are_told_apart() -> None:
    names = [name for name in GOLDEN if name.startswith("datagram")]
    buffer = b"".join(GOLDEN[name] for name in names)
    found = list(datagrams(memoryview(buffer)))
    assert [end - start for start, _, end, *_ in found] == [len(GOLDEN[name]) for name in names]
    assert {life for *_, life in found} == {0, LIFE}


def test_sizes_are_what_the_specification_says() -> None:
    sizes = [layout.size for layout in (HEADER, REQUEST, RANGE, FRAGMENT, REPLY, DATA, ECHO, HOLE, NONCE)]
    assert [*sizes, TAG] == [28, 64, 8, 12, 44, 40, 24, 4, 12, 16]


def test_malformed_is_the_one_refusal() -> None:
    with pytest.raises(Malformed):
        parse_retry(memoryview(b"short"))
