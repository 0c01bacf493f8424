"""Authentic nonsense: whoever has the key may still send anything, and neither end may fall over or believe it."""

from random import Random

import pytest

from store.crypto.keys import derive_session_key, derive_ticket_key
from store.errors import Status
from store.wire.header import ACK, DATA, ECHO, FRAGMENT, HEADER, HOLE, PROBE_ACK, REPLY, TAG, Kind, Op
from store.wire.seal import cipher, seal
from tests.session.world import SECRET, WALL, Client, pair, ticket
from tests.wire.messages import EXAMPLES

KEY = cipher(derive_session_key(derive_ticket_key(SECRET, ticket()), 11))
CONTENT = Random(1).randbytes(100_000)


def sealed(kind: int, body: bytes, packet: int, life: int) -> bytes:
    buffer = bytearray(HEADER.size + len(body) + TAG)
    buffer[HEADER.size : HEADER.size + len(body)] = body
    seal(KEY, memoryview(buffer), 0, HEADER.size, len(buffer), kind, 5, 11, packet, life)
    return bytes(buffer)


def mutated(random: Random) -> bytes:
    data = bytearray(random.choice(list(EXAMPLES.values()))())
    for _ in range(random.randrange(4)):
        if data:
            data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data[: random.randrange(len(data) + 1)] if random.random() < 0.3 else data)


def near_miss(random: Random, client: Client) -> tuple[int, bytes]:
    """Something that fits what the client is waiting for, but not quite."""
    number = random.choice([*client.endpoint._reader.reads, *client.endpoint._writer.requests, 1, 2])
    number32, u32 = number & 0xFFFF_FFFF, random.randrange(1 << 32)
    small = random.choice([0, 1, 4096, 100_000, u32])
    kind = random.choice([Kind.DATA, Kind.REPLY, Kind.ACK, Kind.PROBE_ACK, Kind.RETRY])
    if kind is Kind.DATA:
        flags = random.randrange(8)
        body = bytes(DATA.pack(0, flags, random.choice([0, 1, 63, 65_535]), number32, small, u32, 1, 2, 3))
        body += bytes(ECHO.pack(u32, random.getrandbits(64), random.getrandbits(64), u32)) if flags & 1 else b""
        body += bytes(HOLE.pack(small)) if flags & 2 else b""
        return kind, body + bytes(random.choice([0, 1, 1292, 4096]))
    if kind is Kind.REPLY:
        return kind, bytes(REPLY.pack(random.choice([9, 77, 255]), 0, 0, number32, 1, 2, 3, 4, 5))
    if kind is Kind.ACK:
        return kind, bytes(ACK.pack(random.choice([0, 5, 1 << 63]), u32, small, 8)) + random.randbytes(8)
    if kind is Kind.PROBE_ACK:
        return kind, bytes(PROBE_ACK.pack(random.randrange(50), small))
    return kind, random.randbytes(8)


@pytest.mark.parametrize("seed", range(6))
def test_the_daemon_survives_and_executes_nothing_by_accident(seed: int) -> None:
    random = Random(seed)
    clock, daemon, client = pair(seed)
    client.wait(client.request(Op.WRITE, b"o", sequence=1, payload=CONTENT))
    client.wait(client.request(Op.STAT, b"o"))
    service = daemon.service
    for packet in range(10_000, 12_000):
        body = mutated(random)
        if random.random() < 0.3:
            total = random.choice([64, 65, 200, 4_194_304, 1 << 31])
            body = bytes(FRAGMENT.pack(random.randrange(9), random.choice([0, 7, total]), total)) + body[:50]
        data = sealed(random.choice([1, 2, 3, random.randrange(128)]), body, packet, 0)
        service.receive(clock.now, WALL, memoryview(data), client.address)
        for request in service.requests:
            assert len(request.name) <= 1024
            if request.op == Op.READ and service.begin_data(request) is not None:
                service.end_data(order=1, verifier=2, version=3, object_size=5000)
            elif request.op != Op.READ:
                service.reply(request, Status.OK)
        service.requests.clear()
        service.transmit(clock.now)
        service.release()
    assert service.counters.malformed > 500
    assert service._assemblies._used <= service._assemblies.limit
    clock.run(200.0)
    service.tick(clock.now, WALL)
    client.endpoint._outbox.packet = 20_000  # above the numbers used in its name
    number, into = client.read(b"o", 0, 100_000)
    assert client.wait(number)[0].status is Status.OK
    assert into == CONTENT


@pytest.mark.parametrize("seed", range(6))
def test_the_client_survives_a_daemon_that_talks_nonsense(seed: int) -> None:
    """It may end requests wrongly (the daemon has the key), but never fails, and never leaves its buffer."""
    random = Random(seed)
    clock, daemon, client = pair(seed)
    daemon.objects[b"o"] = bytearray(CONTENT)
    client.wait(client.read(b"o", 0, 4096)[0])
    packet = 1 << 62
    for turn in range(200):
        guard = bytearray(b"\x5a" * 120_000)
        client.endpoint.read(
            clock.now, 1 << 16, b"o", 0, 100_000, memoryview(guard)[10_000:110_000], deadline=clock.now + 0.2
        )
        client.request(Op.WRITE, b"w", sequence=turn + 1, payload=bytes(3000), seconds=0.2)
        clock.run(0.0004)
        for _ in range(10):
            packet += random.choice([1, 1, 2, 5])
            kind, body = near_miss(random, client) if random.random() < 0.7 else (random.randrange(64), mutated(random))
            client.receive(sealed(kind, body, packet, 77))
        clock.run(0.3)
        assert guard[:10_000] == guard[110_000:] == b"\x5a" * 10_000
    assert not client.endpoint._reader.reads and not client.endpoint._writer.requests
