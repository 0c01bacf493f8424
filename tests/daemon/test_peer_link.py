"""Links between daemons over real TLS on loopback: frames of all sizes, reconnection, and who is refused."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import Awaitable, Callable

from daemon.peer_link import FRAME_MAX, FrameType, PeerLink, PeerListener
from store.crypto import pki
from store.crypto.identity import DAEMON, Role, client_role, device_role
from store.crypto.tls import Credentials, client_context, server_context
from store.ids import DeviceId

ME, PEER = DeviceId(b"A" * 16), DeviceId(b"B" * 16)
NOW = datetime.datetime.now(datetime.UTC)
CLUSTER = pki.create_authority(b"c" * 16, NOW)
FOREIGN = pki.create_authority(b"f" * 16, NOW)
PATIENCE_S = 10.0


def credentials(role: Role, authority: pki.Authority = CLUSTER) -> Credentials:
    key = pki.create_key()
    return Credentials(pki.issue(authority, role, pki.create_request(key), NOW, 1), key, authority.certificate)


class Inbox:
    """What arrived, and a way to wait for it."""

    def __init__(self) -> None:
        self.frames: list[tuple[DeviceId, int, bytes]] = []
        self.batches = 0
        self._changed = asyncio.Event()

    def handle(self, device: DeviceId, kind: int, body: memoryview) -> None:
        self.frames.append((device, kind, bytes(body)))
        self._changed.set()

    def batch_done(self) -> None:
        self.batches += 1

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.frames) < count:
                self._changed.clear()
                await self._changed.wait()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - the state is another object's; it has no event to wait for
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def link_to(port: int, own: Credentials, lost: Callable[[], None] = lambda: None) -> PeerLink:
    return PeerLink(ME, PEER, lambda: ("127.0.0.1", port), client_context(own), lost)


def test_frames_arrive_whole_and_in_order_whatever_their_size() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        listener = PeerListener(inbox.handle, inbox.batch_done)
        port = await listener.listen("127.0.0.1", 0, server_context(credentials(device_role(PEER))))
        link = link_to(port, credentials(device_role(ME)))
        await until(lambda: link.connected)
        sizes = [0, 1, 24, 70_000, 4 << 20, 3, 300_000, 5]
        for number, size in enumerate(sizes):
            halves = [bytes([number]) * (size // 2), bytes([number]) * (size - size // 2)]
            assert link.send(FrameType.RECORDS, halves) == size
        await inbox.until(len(sizes))
        expected = [(ME, FrameType.RECORDS, bytes([number]) * size) for number, size in enumerate(sizes)]
        assert inbox.frames == expected and inbox.batches
        link.close()
        listener.close()

    run(scenario)


def test_a_broken_link_is_told_and_dialled_again() -> None:
    async def scenario() -> None:
        inbox, losses = Inbox(), []
        listener = PeerListener(inbox.handle, inbox.batch_done)
        port = await listener.listen("127.0.0.1", 0, server_context(credentials(DAEMON)))
        link = link_to(port, credentials(DAEMON), lambda: losses.append(1))
        await until(lambda: link.connected)
        for connection in list(listener.connections):
            connection.abort()
        await until(lambda: len(losses) == 1)
        await until(lambda: link.connected)
        assert link.send(FrameType.ACKS, [b"again"])
        await inbox.until(1)
        link.close()
        listener.close()

    run(scenario)


async def refused(own: Credentials, server: Credentials) -> tuple[Inbox, PeerListener]:
    """Dial with a link for a while; returns what the other side saw."""
    inbox = Inbox()
    listener = PeerListener(inbox.handle, inbox.batch_done)
    port = await listener.listen("127.0.0.1", 0, server_context(server))
    link = link_to(port, own)
    for _ in range(50):
        link.send(FrameType.ACKS, [b"let me in"])
        await asyncio.sleep(0.01)
    link.close()
    listener.close()
    return inbox, listener


def test_clients_other_devices_and_foreigners_are_refused() -> None:
    async def scenario() -> None:
        mine = credentials(device_role(PEER))
        for own in (
            credentials(client_role("alice")),
            credentials(device_role(DeviceId(b"X" * 16))),
        ):
            inbox, listener = await refused(own, mine)
            assert not inbox.frames and listener.refused
        inbox, _ = await refused(credentials(DAEMON, FOREIGN), mine)
        assert not inbox.frames

    run(scenario)


def test_a_daemon_does_not_talk_to_another_device_at_a_peers_address() -> None:
    async def scenario() -> None:
        inbox, _ = await refused(credentials(DAEMON), credentials(device_role(DeviceId(b"X" * 16))))
        assert not inbox.frames

    run(scenario)


def test_a_frame_beyond_the_limit_ends_the_connection() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        listener = PeerListener(inbox.handle, inbox.batch_done)
        port = await listener.listen("127.0.0.1", 0, server_context(credentials(DAEMON)))

        def shout() -> bytes:
            context: ssl.SSLContext = client_context(credentials(DAEMON))
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as sock:
                sock.settimeout(PATIENCE_S)
                hello = (16).to_bytes(4, "little") + bytes(4) + ME
                sock.sendall(hello + (FRAME_MAX + 1).to_bytes(4, "little") + bytes(4))
                try:
                    return sock.recv(1)
                except ConnectionError:
                    return b""

        assert await asyncio.to_thread(shout) == b""
        await until(lambda: not listener.connections)
        listener.close()

    run(scenario)
