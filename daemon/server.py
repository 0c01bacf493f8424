"""A storage daemon from its start to its end: opens the disk, wires core, peers, master and clients, turns the clock.

Start: disk -> core (decides from the disk's facts whether this is the same life, R1-R4) -> sockets -> master. Nothing
is served before the core says so. Stop: sockets first, then one sync and the clean-stop mark.
"""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from daemon import standing
from daemon.census import Census
from daemon.clients import Clients
from daemon.core.device import DeviceCore
from daemon.core.limits import Limits
from daemon.datagrams import DrainedSocket, StreamSocket, open_socket
from daemon.direct_access import DirectAccess
from daemon.executor import Executor
from daemon.master_link import ControlLink
from daemon.metrics import DaemonCounters, Sample, serve
from daemon.peer_link import PeerListener
from daemon.peers import PeerFrames, Peers
from daemon.settings import Settings
from daemon.standalone import DIRECT_GROUP, LocalArbiter
from daemon.storage.backend import PosixBackend
from daemon.storage.disk import Disk, Opened
from daemon.storage.identity import NAME as IDENTITY
from daemon.upkeep import Upkeep
from store.addresses import Address, format_address
from store.control.arbiter import FromMaster, Register, ToMaster
from store.control.messages import DeviceRegistered, PoolUsage, RegisterDevice
from store.crypto.keys import KeyRing, Secrets
from store.crypto.tls import Credentials, client_context, server_context
from store.crypto.tls import cluster_of as named_by
from store.errors import ConfigError
from store.ids import DeviceId, GroupId, pool_of
from store.limits import REGISTER_S
from store.placement.storage_map import Device, StorageMap
from store.session.service import Service

log = structlog.get_logger()

DEFAULT_SHARE: Final = 0.5  # of what is free, where no capacity is given
DEFECT: Final = 70  # exit status: EX_SOFTWARE of sysexits.h
LOCAL_PEER: Final = ("127.0.0.1", 0)


def clock() -> float:
    """CLOCK_BOOTTIME: it runs on in suspend, so a lease of a sleeping machine ends (R10)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Daemon:
    """One device. `start`, then `run_until_stopped`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.counters = DaemonCounters()
        self._keys = KeyRing()
        self._map: StorageMap | None = None
        self._devices: tuple[Device, ...] = ()
        self._claim: Register | None = None
        self._master: ControlLink | LocalArbiter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._stopping = asyncio.Event()
        self._cleanup = contextlib.ExitStack()

    # Start
    async def start(self) -> None:
        """Raises ConfigError or StoreError with one line for the person who started it."""
        settings = self._settings
        self._loop.set_exception_handler(end_on_defect)
        credentials = await standing.obtain(settings) if settings.master else None
        self._udp = open_listening(settings.listen)
        self._cleanup.callback(self._udp.close)
        self.address: Address = self._udp.getsockname()[:2]
        opened = self._open_disk(credentials)
        self._disk: Disk = opened.disk
        self._cleanup.callback(self._disk.close)
        self.device: DeviceId = opened.device
        self._core = DeviceCore(
            clock(),
            self.device,
            opened.fields,
            opened.groups,
            lossless=same_life(opened),
            draw=draw_incarnation,
            objects=self._disk,
            limits=Limits(),
        )
        self._wire(credentials)
        await self._listen_to_peers(credentials)
        self._upkeep = Upkeep(self._loop, self._disk, self._core, clock, self._executor.run)
        self._cleanup.callback(self._upkeep.close)
        self._upkeep.start()
        self._census = Census(self._disk, clock)
        self._clients.start()
        if credentials is not None:
            self._keys.install(standing.kept_secrets(settings.directory))
            self._devices = standing.kept_devices(settings.directory)
        if settings.metrics is not None:
            self._cleanup.callback(serve(settings.metrics, self._samples))
        self._executor.run()
        if credentials is None:
            self._stand_alone(opened)
        else:
            await self._join_cluster(credentials)
        gc.collect()
        gc.freeze()  # what lives now lives for ever: no collection looks at it again
        gc.set_threshold(50_000, 20, 50)

    def _open_disk(self, credentials: Credentials | None) -> Opened:
        settings, cluster = self._settings, cluster_of(credentials)
        backend = PosixBackend(settings.directory)
        if backend.load(IDENTITY) is None:
            capacity = settings.capacity or int(free_bytes(settings.directory) * DEFAULT_SHARE)
            device = DeviceId(secrets.token_bytes(16))
            Disk.create(backend, cluster=cluster, device=device, journal_size=settings.journal, capacity=capacity)
            backend = PosixBackend(settings.directory)
        return Disk.open(backend, cluster=cluster)

    def _wire(self, credentials: Credentials | None) -> None:
        """Everything that needs the core, in the order in which a write passes it."""
        core, disk, counters = self._core, self._disk, self.counters
        context = None if credentials is None else client_context(credentials)
        self._peers = Peers(self.device, context, self._peer_address, self._link_lost)
        self._cleanup.callback(self._peers.close)
        self._executor = Executor(core, disk, self._peers, clock, counters)
        self._frames = PeerFrames(core, clock, counters, disk.may_take)
        kind = StreamSocket if self._settings.datagrams == "asyncio-dgram" else DrainedSocket
        self._service = Service(clock(), self._keys, 1 + secrets.randbelow((1 << 32) - 1), time.time_ns() // 1000)
        self._clients = Clients(
            self._service, core, disk, kind(self._loop, self._udp), clock, time.time, counters, self._executor.run
        )
        self._cleanup.callback(self._clients.close)
        self._executor.answer = self._clients.answer
        self._executor.after_run = self._after_run
        self._executor.master = self

    async def _listen_to_peers(self, credentials: Credentials | None) -> None:
        self.peer_address: Address = LOCAL_PEER
        if credentials is None:
            return
        host, port = self._settings.peer_listen
        self._listener = PeerListener(self._frames.handle, self._executor.run)
        try:
            port = await self._listener.listen(host, port, server_context(credentials))
        except OSError as error:
            raise listening_failed(self._settings.peer_listen, "TCP", error) from error
        self.peer_address = (host, port)
        self._cleanup.callback(self._listener.close)

    def _stand_alone(self, opened: Opened) -> None:
        known = opened.groups.get(DIRECT_GROUP)
        config = known.fields.config if known is not None else None
        self._master = arbiter = LocalArbiter(self.device, config, self._deliver_later)
        access = DirectAccess(self.device, self.address, self._settings.capacity or 0)
        self.new_secrets(access.secrets)
        self._cleanup.callback(access.publish())
        if self._claim is not None:
            arbiter.tell([self._claim])

    async def _join_cluster(self, credentials: Credentials) -> None:
        assert self._settings.master is not None
        self._master = link = ControlLink([self._settings.master], client_context(credentials), self)
        link.start()
        if self._core.who is None:  # else this start needs no master (R4)
            await link.wait_connected(REGISTER_S)

    # The clock
    def _after_run(self) -> None:
        """End of a tick: answers leave, the disk keeps pace, and the timer is set to whoever is first to be called."""
        self._clients.transmit()
        self._upkeep.after_batch()
        now = clock()
        due = self._core.deadline()
        service = self._service.deadline(now)
        if service is not None and service < due:
            due = service
        if self._timer is None or due < self._timer_at or self._timer_at <= now:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = clock()
        self._core.tick(now)
        self._service.tick(now, time.time())
        self._executor.run()

    # The master (owner of the control link, and where the core's words go)
    def tell(self, messages: list[ToMaster]) -> None:
        for message in messages:
            if isinstance(message, Register):
                self._claim = message
        if self._master is not None:
            self._master.tell(messages)

    def registration(self) -> RegisterDevice:
        who, claim, room = self._core.who, self._claim, self._disk.room()
        return RegisterDevice(
            device=self.device,
            cluster=self._disk.identity.cluster,
            incarnation=who.incarnation if who is not None else claim.incarnation if claim is not None else 0,
            claim=claim,
            address=advertised(self.address, self.peer_address),
            peer=advertised(self.peer_address, self.peer_address),
            host=self._settings.host or socket.gethostname(),
            zone=self._settings.zone,
            capacity=room.capacity,
            used=room.used,
        )

    def usage(self) -> tuple[int, int, tuple[PoolUsage, ...]]:
        self._remove_pools()
        room = self._disk.room()
        return room.used, room.free, self._census.pools()

    def registered(self, answer: DeviceRegistered) -> None:
        log.info("registered", device=self.device.hex(), name=answer.name)
        self.new_secrets(answer.secrets)
        self.new_map(answer.map)
        messages: list[FromMaster] = [] if answer.answer is None else [answer.answer]
        self.decided((*messages, *answer.configs))

    def decided(self, messages: tuple[FromMaster, ...]) -> None:
        now = clock()
        for message in messages:
            self._core.receive_master(now, message)
        self._executor.run()

    def _deliver_later(self, message: FromMaster) -> None:
        self._loop.call_soon(self.decided, (message,))

    def new_map(self, storage_map: StorageMap) -> None:
        """The devices are kept on the disk: peers must be found while the master is away."""
        if self._map is None or storage_map.order > self._map.order:
            if self._map is None or storage_map.devices != self._map.devices:
                standing.keep_devices(self._settings.directory, storage_map.devices)
                self._devices = storage_map.devices
            self._map = storage_map
            self._remove_pools()

    def _remove_pools(self) -> None:
        """Groups of pools that the map says are gone give their space back; those in a checkpoint a little later."""
        known = self._map
        if known is None:
            return
        here = {pool.number for pool in known.pools}
        for group in list(self._core.groups):
            if pool_of(GroupId(group)) < known.next_pool and pool_of(GroupId(group)) not in here:
                self._core.remove(clock(), GroupId(group))
        self._executor.run()

    def new_secrets(self, given: Secrets) -> None:
        """Kept on the disk as well: a daemon that starts while the master is away must know its clients."""
        if given != self._keys.secrets():
            self._keys.install(given)
            if self._settings.master is not None:
                standing.keep_secrets(self._settings.directory, given)

    # Peers
    def _peer_address(self, device: DeviceId) -> Address | None:
        return next((known.peer for known in self._devices if known.id == device), None)

    def _link_lost(self, device: DeviceId) -> None:
        self._core.link_lost(clock(), device)
        self._executor.run()

    # Metrics
    def _samples(self) -> Iterable[Sample]:
        own, service, room = self.counters, self._service.counters, self._disk.room()
        yield ("reads", "READ requests answered from here", own.reads, True)
        yield ("writes", "mutations ordered here", own.writes, True)
        yield ("commits", "mutations committed and answered here", own.commits, True)
        yield ("commit_seconds", "time from arrival to answer of those mutations, summed", own.commit_seconds, True)
        yield ("sync_seconds", "time that group commits took, summed", own.sync_seconds, True)
        yield ("journal_batches", "appends to the journal", own.batches, True)
        yield ("journal_syncs", "group commits", own.syncs, True)
        yield ("peer_frames", "frames from other daemons", own.frames_in, True)
        yield ("peer_frames_refused", "frames of records refused for want of journal", own.frames_refused, True)
        yield ("peer_bytes_sent", "bytes of records sent to other daemons", own.peer_bytes_out, True)
        for name in type(service).__slots__:
            yield (f"transport_{name}", f"client transport: {name.replace('_', ' ')}", getattr(service, name), True)
        yield ("invalid_requests", "authentic datagrams that are no message", service.malformed, True)
        yield ("auth_failures", "datagrams that did not authenticate", service.unauthenticated, True)
        yield ("replays", "datagrams seen before", service.replays, True)
        yield ("journal_fill", "share of the journal in use", self._disk.pressure().fill, False)
        yield ("checkpoints", "checkpoints completed", self._disk.checkpoints, True)
        yield ("in_flight", "mutations ordered and not yet answered", own.writes - own.commits, False)
        yield ("send_queue_bytes", "answers that wait to be sent", self._service.ready, False)
        yield ("device_used_bytes", "bytes that objects take", room.used, False)
        yield ("device_free_bytes", "bytes that objects may still take", room.free, False)

    # End
    async def run_until_stopped(self) -> None:
        """Until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        await self._stopping.wait()

    async def stop(self) -> None:
        """Orderly: what clients were told stays true anyway; the next start then needs no recovery."""
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(self._master, ControlLink):
            await self._master.close()
        self._cleanup.close()


def open_listening(address: Address) -> socket.socket:
    try:
        return open_socket(*address)
    except OSError as error:
        raise listening_failed(address, "UDP", error) from error


def listening_failed(address: Address, kind: str, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"cannot listen on {format_address(address)} ({kind}): {reason}; choose another address or port")


def end_on_defect(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that nobody expected leaves the core half way through something: going on could lose data.

    The process ends at once, as by kill -9, which every other part is made for; whoever started it starts it again.
    """
    error = context.get("exception")
    if error is None or isinstance(error, OSError):  # connections break; ssl.SSLError is an OSError
        log.debug("connection trouble", what=context.get("message"), error=str(error))
        return
    log.critical("a defect; the daemon ends", what=context.get("message"), exc_info=error)
    os._exit(DEFECT)


def same_life(opened: Opened) -> bool:
    """Whether this start may go on as the who of the last one (R3): nothing is missing, and no copy that counts as in
    sync had to be given up while the disk was opened."""
    device = opened.device
    return opened.lossless and all(
        group.fields.whole or group.fields.config is None or device not in group.fields.config.devices()
        for group in opened.groups.values()
    )


def draw_incarnation() -> int:
    return 1 + secrets.randbelow((1 << 63) - 1)


def free_bytes(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize


def cluster_of(credentials: Credentials | None) -> bytes:
    """The cluster a daemon belongs to; 16 zero bytes for one that stands alone."""
    return bytes(16) if credentials is None else named_by(credentials.authority)


def advertised(address: Address, fallback: Address) -> Address:
    """What others should dial: a wildcard is no address to send to."""
    host, port = address
    if host in ("0.0.0.0", "::"):
        host = socket.gethostbyname(socket.gethostname()) if fallback[0] in ("0.0.0.0", "::") else fallback[0]
    return (host, port)
