"""A whole cluster on one machine, in the foreground: start, say where everything is, watch, stop."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

import daemon.__main__
import master.__main__
from cluster.children import Child, Children
from cluster.plan import JOURNAL, Plan, State, daemon_name, load_state
from daemon.standing import CERTIFICATE
from store.addresses import format_address
from store.client.config import load_config
from store.control.channel import Connection, Quiet, dial
from store.control.messages import (
    DeviceList,
    DevicesAre,
    Hello,
    ImageCreate,
    ImageInfo,
    ImageIs,
    ImageList,
    ImagesAre,
    JoinTicketCreate,
    JoinTicketIs,
    PoolCreate,
    PoolIs,
    PoolList,
    PoolsAre,
    PoolStatus,
    Welcome,
)
from store.crypto.identity import MASTER
from store.errors import ConfigError, Status, StoreError
from store.sizes import format_size

POOL: Final = "main"
GROUPS: Final = 128
START_S: Final = 15.0
POLL_S: Final = 0.02

A = TypeVar("A", bound=msgspec.Struct)


class Cluster:
    """One `store up`, from its first look at the directory to its last word."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._state = load_state(plan.directory) or State()
        self._children = Children(tell, self._remember)
        self._began = time.monotonic()
        self._pools: tuple[PoolStatus, ...] = ()
        self._images: tuple[ImageInfo, ...] = ()
        self._resumed: set[str] = set()  # daemons that have been part of the cluster before
        self._missing: set[str] = set()  # those of them that ended at once

    def run(self) -> None:
        """Until a signal. Raises ConfigError or StoreError if it cannot start; what was started is stopped."""
        plan = self._plan
        if self._state.daemons > plan.daemons:
            raise ConfigError(
                f"{plan.directory} has {self._state.daemons} daemons: --daemons {plan.daemons} would leave some out"
            )
        plan.check_ports()
        (plan.directory / "log").mkdir(exist_ok=True)
        self._state.daemons, self._state.port_base = plan.daemons, plan.port_base
        try:
            self._start_master()
            asyncio.run(self._set_up())
            self._start_gateway()
            self._announce()
            self._children.watch()
            tell("stopping")
        finally:
            self._children.end()

    # --- starting

    def _start(self, name: str, main: Callable[[list[str]], int], arguments: list[str]) -> None:
        self._children.add(Child(name, lambda: main(arguments), self._plan.log(name)))

    def _start_master(self) -> None:
        plan = self._plan
        arguments = ["--dir", str(plan.directory / "master"), "--listen", format_address(plan.master_client())]
        arguments += ["--peer-listen", format_address(plan.master_peer())]
        arguments += ["--client-config", str(plan.client_config), "--client-pool", POOL]
        self._start("master", master.__main__.main, arguments + self._metrics(0))

    def _start_daemon(self, number: int, ticket: str | None) -> None:
        plan = self._plan
        arguments = ["--dir", str(plan.daemon_directory(number)), "--journal", JOURNAL]
        arguments += ["--capacity", str(plan.capacity())]
        arguments += ["--listen", format_address(plan.daemon_client(number))]
        arguments += ["--peer-listen", format_address(plan.daemon_peer(number))]
        arguments += ["--master", format_address(plan.master_peer()), "--host", daemon_name(number)]
        arguments += ["--join", ticket] if ticket else []
        self._start(daemon_name(number), daemon.__main__.main, arguments + self._metrics(number))

    def _start_gateway(self) -> None:
        plan = self._plan
        if not plan.nbd:
            return
        plan.nbd_socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "gateways.nbd", "--config", str(plan.client_config), "--pool", POOL]
        command += ["--socket", str(plan.nbd_socket), *self._metrics(plan.daemons + 1)]
        self._state.nbd_socket = str(plan.nbd_socket)
        self._children.add(Child("nbd", lambda: os.execv(command[0], command), plan.log("nbd")))
        self._await(plan.nbd_socket.exists, "the NBD gateway")

    def _metrics(self, place: int) -> list[str]:
        address = self._plan.metrics_address(place)
        return ["--serve-metrics", address] if address else []

    # --- talking to the master

    async def _set_up(self) -> None:
        connection = await self._connect()
        try:
            await self._start_daemons(connection)
            await self._make_pool(connection)
            await self._make_images(connection)
        finally:
            connection.close()

    async def _connect(self) -> Connection:
        """As soon as the master listens and has written the client's configuration."""
        path = self._plan.client_config
        while True:
            try:
                if path.exists():
                    config = load_config(path)
                    connection = await dial(self._plan.master_client(), config.tls(), MASTER, Quiet())
                    await connection.call(Hello(program="store up"), Welcome)
                    return connection
            except StoreError as error:
                if error.status != Status.UNAVAILABLE:
                    raise
            self._check("the master")
            await asyncio.sleep(POLL_S)

    async def _start_daemons(self, connection: Connection) -> None:
        """New ones one after the other, so that the devices are called d1, d2, … in the order of the daemons."""
        for number in self._plan.numbers():
            if (self._plan.daemon_directory(number) / CERTIFICATE).exists():
                self._resumed.add(daemon_name(number))
                self._start_daemon(number, None)
                continue
            known = len((await connection.call(DeviceList(), DevicesAre)).devices)
            ticket = (await connection.call(JoinTicketCreate(role="daemon"), JoinTicketIs)).ticket
            self._start_daemon(number, ticket)
            while len((await connection.call(DeviceList(), DevicesAre)).devices) == known:
                self._check(daemon_name(number))
                await asyncio.sleep(POLL_S)

    async def _make_pool(self, connection: Connection) -> None:
        plan = self._plan
        if not any(pool.name == POOL for pool in (await connection.call(PoolList(), PoolsAre)).pools):
            message = PoolCreate(name=POOL, replicas=plan.replicas, groups=GROUPS, wait=START_S)
            making = asyncio.create_task(connection.call(message, PoolIs, START_S + 5.0))
            while not making.done():
                self._check("the daemons")
                await asyncio.wait({making}, timeout=POLL_S)
            await making
        while True:
            pools = (await connection.call(PoolList(), PoolsAre)).pools
            if all(pool.complete == pool.groups for pool in pools):
                return
            if self._late() or self._missing:
                tell("not every group has all its copies yet; see `store status --explain`")
                return
            self._check("the daemons")
            await asyncio.sleep(POLL_S)

    async def _make_images(self, connection: Connection) -> None:
        known = {image.name for image in (await connection.call(ImageList(pool=POOL), ImagesAre)).images}
        for name, size in self._plan.images:
            if name not in known:
                await connection.call(ImageCreate(pool=POOL, name=name, size=size), ImageIs)
        self._images = (await connection.call(ImageList(pool=POOL), ImagesAre)).images
        self._pools = (await connection.call(PoolList(), PoolsAre)).pools

    # --- waiting

    def _late(self) -> bool:
        return time.monotonic() > self._began + START_S

    def _check(self, what: str) -> None:
        """Raises StoreError if a program ended, or time is over. A known disk that fails must not stop the others."""
        for child in self._children.ended():
            if child.name not in self._resumed:
                raise StoreError(Status.UNAVAILABLE, f"{child.name} ended at once: {child.last_words()}")
            if child.name not in self._missing:
                self._missing.add(child.name)
                tell(f"{child.name} ended at once, going on without it: {child.last_words()}")
        if time.monotonic() > self._began + 2 * START_S:
            raise StoreError(Status.TIMEOUT, f"{what} did not start within {2 * START_S:g} s; see {self._plan.log('')}")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            self._check(what)
            time.sleep(POLL_S)

    def _remember(self) -> None:
        running = {child.name: child.process for child in self._children.all if child.process}
        self._state.processes = {"up": os.getpid(), **running} if running else {}
        self._state.save(self._plan.directory)

    # --- telling

    def _announce(self) -> None:
        plan = self._plan
        here = plan.directory == Path("var").absolute()
        store = "store" if here else f"store --config {plan.client_config}"
        lines = [f"the cluster is ready after {time.monotonic() - self._began:.1f} s, in {plan.directory}"]
        lines.append(
            f"  master   {format_address(plan.master_client())}, for daemons {format_address(plan.master_peer())}"
        )
        for number in plan.numbers():
            where = format_address(plan.daemon_client(number))
            lines.append(f"  device   {where}, {plan.daemon_directory(number)}")
        lines += [f"  pool     {pool.name}: {pool.replicas} copies" for pool in self._pools]
        lines += [f"  image    {image.name}: {format_size(image.size)}" for image in self._images]
        example = self._images[0].name if self._images else "book"
        if plan.nbd:
            lines.append(f"  NBD      nbd+unix:///{example}?socket={plan.nbd_socket}")
        lines += [
            "next, in another terminal:",
            f"  {store} status",
            f"  {store} write --pool {POOL} hello --data-literal world",
        ]
        lines.append(f"  {store} read --pool {POOL} hello")
        if not self._images:
            lines.append(f"  {store} image create book --size 2G")
        lines.append(f"  {store} attach {example} --mkfs ext4 --mount /mnt/book")
        lines.append("Ctrl-C stops the cluster; what it holds stays, and `store up` brings it back")
        print("\n".join(lines), flush=True)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def up(plan: Plan) -> None:
    """Run a cluster until a signal. Raises ConfigError and StoreError, each one line."""
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(plan.directory / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {plan.directory}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"a cluster runs in {plan.directory} already; see `store status`") from error
    Cluster(plan).run()
