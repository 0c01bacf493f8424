"""What does not authenticate changes nothing and gets no answer; what does cannot be aimed at others."""

from random import Random
from typing import Any

import pytest

from store.crypto.keys import derive_session_key, derive_ticket_key
from store.crypto.ticket import Right
from store.errors import Status
from store.limits import TRANSPORT_SESSIONS
from store.session.counters import ServiceCounters
from store.wire.header import HEADER, TICKETED, Kind, Op
from store.wire.seal import cipher, datagrams, seal
from tests.session.world import GROUP, SECRET, WALL, Client, Clock, Daemon, Link, pair, ticket

VICTIM = ("203.0.113.9", 53)


def established() -> tuple[Clock, Daemon, Client, list[bytes]]:
    """A client that is known, and what it sends from now on."""
    clock, daemon, client = pair()
    daemon.objects[b"o"] = bytearray(range(256)) * 1000
    client.wait(client.request(Op.WRITE, b"w", sequence=1, payload=b"first"))
    client.wait(client.request(Op.STAT, b"w"))
    captured: list[bytes] = []
    client.tap = captured.append
    return clock, daemon, client, captured


def counts(counters: ServiceCounters) -> dict[str, int]:
    return {name: getattr(counters, name) for name in counters.__slots__}


def answers(daemon: Daemon, data: bytes, address: Any) -> list[bytes]:
    """What a daemon sends when it receives `data` from `address`."""
    daemon.service.receive(daemon.clock.now, WALL, memoryview(data), address)
    return [bytes(view) for view, _, _ in daemon.service.transmit(daemon.clock.now)]


def test_a_flipped_bit_anywhere_is_refused_and_counted() -> None:
    _, daemon, client, captured = established()
    client.up.down = True
    client.request(Op.WRITE, b"w", sequence=2, payload=b"second")
    data = captured[-1]
    random = Random(1)
    before = counts(daemon.service.counters)
    for bit in sorted(random.sample(range(len(data) * 8), 300)):
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        assert answers(daemon, bytes(forged), client.address) == []
        assert daemon.service.requests == []
    after = counts(daemon.service.counters)
    assert after["requests"] == before["requests"]
    refused = sum(after[name] - before[name] for name in ("unauthenticated", "malformed", "replays"))
    assert refused + 40 > 300  # the rest hit magic or length, and were not seen as datagrams at all
    assert daemon.objects[b"w"] == b"first"


def test_a_flipped_bit_in_an_answer_is_ignored_by_the_client() -> None:
    clock, daemon, client, _ = established()
    answered: list[bytes] = []
    daemon.tap = lambda data, address: answered.append(data)
    client.down.down = True
    number, into = client.read(b"o", 0, 1000)
    clock.run(0.01)
    for data in answered:
        for place in range(0, len(data), 7):
            forged = bytearray(data)
            forged[place] ^= 4
            client.receive(bytes(forged))
    assert number not in client.done
    for data in answered:
        client.receive(data)
    assert client.done[number].status is Status.OK
    assert into == daemon.objects[b"o"][:1000]


def test_replayed_datagrams_are_counted_and_change_nothing() -> None:
    _, daemon, client, captured = established()
    for sequence in range(2, 20):
        client.wait(client.request(Op.WRITE, b"w", sequence=sequence, payload=b"second"))
    applied = len(daemon.written)
    for data in captured:
        for address in (client.address, VICTIM):
            assert answers(daemon, data, address) == []
    assert daemon.service.counters.replays >= 2 * len(captured)
    assert len(daemon.written) == applied and not daemon.service.requests


def test_a_replayed_answer_does_not_confuse_the_client() -> None:
    _, daemon, client, _ = established()
    answered: list[bytes] = []
    daemon.tap = lambda data, address: answered.append(data)
    first, _ = client.read(b"o", 0, 5000)
    client.wait(first)
    number, into = client.read(b"o", 5000, 5000)
    for data in answered:
        client.receive(data)
    client.wait(number)
    assert into == daemon.objects[b"o"][5000:10_000]


def forge(
    kind: int, body: bytes, *, key: bytes = b"k" * 16, session: int = 99, life: int = 0, sealed: bytes = b""
) -> bytes:
    """A datagram under any key; with a ticket if one is given."""
    block = len(sealed).to_bytes(2, "little") + sealed if sealed else b""
    buffer = bytearray(HEADER.size + len(block) + len(body) + 16)
    start = HEADER.size + len(block)
    buffer[HEADER.size : start] = block
    buffer[start : start + len(body)] = body
    seal(
        cipher(key), memoryview(buffer), 0, start, len(buffer), kind | (TICKETED if sealed else 0), 5, session, 3, life
    )
    return bytes(buffer)


@pytest.mark.parametrize(
    "data",
    [
        forge(Kind.REQUEST, bytes(100)),
        forge(Kind.REQUEST, bytes(100), sealed=ticket()),
        forge(Kind.REQUEST, bytes(100), sealed=b"no ticket"),
        forge(Kind.REQUEST, bytes(100), sealed=ticket(key_epoch=9)),
        forge(Kind.REQUEST, bytes(100), session=11),
        forge(Kind.PROBE, bytes(1000), session=11),
        b"",
        b"\xa1" * 44,
        bytes(1400),
    ],
)
def test_nothing_is_answered_without_a_key(data: bytes) -> None:
    _, daemon, client, _ = established()
    opened = daemon.service.counters.sessions_opened
    assert answers(daemon, data, VICTIM) == []
    assert answers(daemon, data, client.address) == []
    assert daemon.service.counters.sessions_opened == opened
    assert not daemon.service.requests


@pytest.mark.parametrize("kind", [0, 4, 15, Kind.REPLY, Kind.DATA, Kind.ACK, 127])
def test_authentic_nonsense_is_dropped_and_counted(kind: int) -> None:
    _, daemon, client, _ = established()
    sealed = ticket()
    key = derive_session_key(derive_ticket_key(SECRET, sealed), 11)
    data = bytearray(forge(kind, bytes(80), key=key, session=11))
    seal(cipher(key), memoryview(data), 0, HEADER.size, len(data), kind, 5, 11, 1000, 0)
    assert answers(daemon, bytes(data), client.address) == []
    assert daemon.service.counters.malformed == 1


def test_an_expired_ticket_is_told_so() -> None:
    clock = Clock(1)
    daemon = Daemon(clock)
    client = Client(clock, daemon, Link(clock), Link(clock), sealed=ticket(not_after=int(WALL)))
    done = client.wait(client.request(Op.WRITE, b"w", sequence=1, payload=b"x"))[0]
    assert done.status is Status.EXPIRED
    number, _ = client.read(b"o", 0, 10)
    assert client.wait(number)[0].status is Status.EXPIRED
    assert daemon.service.counters.expired == 2
    assert daemon.objects == {}


@pytest.mark.parametrize(
    ("fields", "op", "name", "status"),
    [
        ({"pool": 1}, Op.WRITE, b"w", Status.OK),
        ({"pool": 2}, Op.WRITE, b"w", Status.DENIED),
        ({"prefix": b"a/"}, Op.WRITE, b"a/b", Status.OK),
        ({"prefix": b"a/"}, Op.WRITE, b"b", Status.DENIED),
        ({"rights": int(Right.READ)}, Op.WRITE, b"w", Status.DENIED),
        ({"rights": int(Right.READ)}, Op.LIST, b"", Status.DENIED),
        ({"rights": int(Right.WRITE)}, Op.STAT, b"w", Status.DENIED),
        ({}, 99, b"w", Status.UNSUPPORTED),
        ({}, Op.WRITE, b"", Status.INVALID),
    ],
)
def test_capabilities_decide(fields: dict[str, Any], op: int, name: bytes, status: Status) -> None:
    clock = Clock(1)
    daemon = Daemon(clock)
    client = Client(clock, daemon, Link(clock), Link(clock), sealed=ticket(**fields))
    for sequence in (1, 2):
        number = client.request(op, name, sequence=sequence, payload=b"x" * 10)
        assert client.wait(number)[0].status is status
    big = client.request(op, name, sequence=3, payload=b"x" * 50_000) if op == Op.WRITE else number
    assert client.wait(big)[0].status is status
    assert daemon.service.counters.denied == (0 if status is not Status.DENIED else 3 if op == Op.WRITE else 2)
    assert bool(daemon.objects) is (status is Status.OK)


def test_a_captured_read_cannot_be_aimed_at_somebody_else() -> None:
    """A fresh, valid request with another source address: one RETRY, shorter than it, and nothing else."""
    _, daemon, client, captured = established()
    client.up.down = True
    client.read(b"o", 0, 60_000)
    client.read(b"o", 0, 100)
    client.request(Op.WRITE, b"w", sequence=2, payload=b"x" * 10_000)
    for data in captured:
        sent = answers(daemon, data, VICTIM)
        assert [len(answer) for answer in sent] == [HEADER.size + 8 + 16]
        assert len(sent[0]) < len(data)
    assert not daemon.service.requests
    client.up.down = False
    for data in captured:  # and the true ones are still welcome
        daemon.receive(data, client.address)
    assert daemon.objects[b"w"] == b"x" * 10_000 or daemon.service._assemblies.waiting()


def test_an_unproved_address_never_gets_more_than_three_times_what_it_sent() -> None:
    clock = Clock(1)
    daemon = Daemon(clock)
    daemon.objects[b"o"] = bytearray(100_000)
    received: dict[Any, int] = {}
    sent: dict[Any, int] = {}
    daemon.tap = lambda data, address: sent.update({address: sent.get(address, 0) + len(data)})
    for session, length in enumerate((1, 100, 300, 1000, 60_000, 100_000), 50):
        client = Client(clock, daemon, Link(clock), Link(clock), session=session, address=("10.0.0.1", session))
        address = client.address

        def note(data: bytes, address: Any = address) -> None:
            received[address] = received.get(address, 0) + len(data)

        client.tap = note
        client.down.down = True  # no stamp ever comes back: the address stays unproved
        client.read(b"o", 0, length, seconds=3)
        client.request(Op.STAT, b"o", seconds=3)
        client.request(Op.LIST, b"", seconds=3)
        client.request(Op.WRITE, b"w", sequence=1, payload=bytes(length), seconds=3)
        clock.run(4.0)
        assert sent[address] <= 3 * received[address]


def test_a_client_may_move_and_proves_its_new_address_in_one_round_trip() -> None:
    clock, daemon, client, _ = established()
    number, into = client.read(b"o", 0, 200_000)
    other = client.request(Op.WRITE, b"w", sequence=2, payload=bytes(300_000))
    clock.run(0.002)
    client.move(("198.51.100.7", 999))
    for done in client.wait(number, other):
        assert done.status is Status.OK
    assert into == daemon.objects[b"o"][:200_000]
    assert 1 <= daemon.service.counters.retries < 200
    retries = daemon.service.counters.retries
    start = clock.now
    client.move(("198.51.100.7", 1000))
    number, _ = client.read(b"o", 0, 4096)
    client.wait(number)
    assert clock.now - start < 0.006  # a round trip takes 1 ms
    assert daemon.service.counters.retries == retries + 1


def test_names_and_content_do_not_travel_in_the_clear() -> None:
    _, daemon, client, captured = established()
    answered: list[bytes] = []
    daemon.tap = lambda data, address: answered.append(data)
    secret = b"a most particular sequence of words"
    client.wait(client.request(Op.WRITE, b"name-of-the-object", sequence=9, payload=secret * 100))
    number, _ = client.read(b"name-of-the-object", 0, 3000)
    client.wait(number)
    traffic = b"".join(captured + answered)
    assert len(traffic) > 6000
    assert b"particular" not in traffic and b"name-of-the" not in traffic


def test_old_sessions_make_room_for_new_ones_and_come_back_by_their_ticket() -> None:
    clock, daemon, client, _ = established()
    used: set[tuple[int, int]] = set()

    def unique(data: bytes, address: Any) -> None:
        for _, _, _, _, session, packet, life in datagrams(memoryview(data)):
            if session == 11:
                assert (life, packet) not in used
                used.add((life, packet))

    daemon.tap = unique
    client.wait(client.request(Op.STAT, b"o"))
    for session in range(1000, 1000 + TRANSPORT_SESSIONS + 5):
        other = Client(clock, daemon, Link(clock), Link(clock), session=session, address=("10.1.0.1", session))
        other.request(Op.STAT, b"o")
        clock.run(0.01)
    assert daemon.service.counters.sessions_evicted >= TRANSPORT_SESSIONS // 8
    assert len(daemon.service._sessions.known) <= TRANSPORT_SESSIONS
    number, _ = client.read(b"o", 0, 4096)
    assert client.wait(number)[0].status is Status.OK


def test_group_is_what_the_pool_is_taken_from() -> None:
    assert GROUP >> 16 == 1
