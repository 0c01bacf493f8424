"""`python -m master` as a process: starting, ending, being killed, and what it says when it cannot start."""

import asyncio
import datetime
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from store.addresses import Address
from store.client.config import load_config
from store.control.channel import Connection, Quiet, dial
from store.control.messages import (
    GetStatus,
    Hello,
    JoinTicketCreate,
    JoinTicketIs,
    PoolCreate,
    PoolIs,
    PoolList,
    PoolsAre,
    StatusIs,
    Welcome,
)
from store.crypto import pki
from store.crypto.identity import DAEMON, MASTER, Role, client_role
from store.crypto.tls import Credentials, client_context
from store.errors import StoreError
from tests.master.running import PlayedDaemon, master_in, run
from tests.processes import Processes, wait_for

START_S = 10.0


class Started:
    """A master in a process of its own."""

    def __init__(self, processes: Processes, directory: Path, port: int, *more: str | Path) -> None:
        self.address = ("127.0.0.1", port)
        self.directory = directory
        state, listen = directory / "master", f"127.0.0.1:{port}"
        command: list[str | Path] = [sys.executable, "-m", "master", "--dir", state, "--listen", listen]
        self.output = processes.output("master")
        self.output.unlink(missing_ok=True)
        self.process = processes.start("master", [*command, *more])
        wait_for(lambda: b"master of cluster" in self.output.read_bytes(), START_S, "the master's start")

    async def status(self, client_config: Path) -> StatusIs:
        connection = await hello(self.address, client_config)
        status = await connection.call(GetStatus(), StatusIs)
        connection.close()
        return status


def attempt(*arguments: str | Path) -> tuple[int, str, float]:
    """Exit code, last line said, seconds, of a master that should not start."""
    began = time.monotonic()
    command = [sys.executable, "-m", "master", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stderr.strip().splitlines()[-1], time.monotonic() - began


def fails(match: str, *arguments: str | Path) -> None:
    code, line, seconds = attempt(*arguments)
    assert re.search(match, line), line
    assert code == 1 and seconds < 5 and line.startswith("master: ")


def test_start_stop_and_start_again(tmp_path: Path, processes: Processes, free_ports: Callable[[int], int]) -> None:
    port = free_ports(1)
    config = tmp_path / "client.toml"
    cluster = b""
    for _ in range(2):
        master = Started(processes, tmp_path, port, "--client-config", config, "--client-pool", "main")
        assert load_config(config).pool == "main"
        status = asyncio.run(master.status(config))
        assert cluster in (b"", status.cluster)
        cluster = status.cluster
        assert processes.end(master.process) == 0
    private = [path.name for path in (tmp_path / "master").iterdir() if path.stat().st_mode & 0o077]
    assert sorted(private) == ["admin.crt", "ca.crt", "master.crt"]


def test_nothing_decided_is_lost_by_a_kill(
    tmp_path: Path, processes: Processes, free_ports: Callable[[int], int]
) -> None:
    """Answered means durable: each pool that was confirmed before the kill is there after it."""

    port, config = free_ports(1), tmp_path / "client.toml"

    async def create_until_killed(master: Started) -> list[str]:
        await PlayedDaemon(1, issued(tmp_path / "master", DAEMON)).register_at(master.address)
        connection = await hello(master.address, config)
        confirmed: list[str] = []
        try:
            for number in range(10_000):
                await connection.call(PoolCreate(name=f"p{number}", replicas=1, groups=4), PoolIs)
                confirmed.append(f"p{number}")
                if number == 20:
                    master.process.send_signal(signal.SIGKILL)
        except StoreError:
            return confirmed
        raise AssertionError("it was not killed")

    async def names(master: Started) -> list[str]:
        connection = await hello(master.address, config)
        return [pool.name for pool in (await connection.call(PoolList(), PoolsAre)).pools]

    master = Started(processes, tmp_path, port, "--client-config", config)
    confirmed = asyncio.run(create_until_killed(master))
    master.process.wait(10)
    master = Started(processes, tmp_path, port, "--client-config", config)
    assert len(confirmed) > 20 and set(confirmed) <= set(asyncio.run(names(master)))


def issued(folder: Path, role: Role, name: str = "ca") -> Credentials:
    """A certificate of the CA in a folder."""
    authority = pki.Authority((folder / f"{name}.crt").read_text(), (folder / f"{name}.key").read_text())
    key = pki.create_key()
    made = pki.issue(authority, role, pki.create_request(key), datetime.datetime.now(datetime.UTC), 9)
    return Credentials(made, key, authority.certificate)


async def hello(address: Address, config: Path) -> Connection:
    connection = await dial(address, load_config(config).tls(), MASTER, Quiet())
    await connection.call(Hello("test"), Welcome)
    return connection


def test_what_it_says_when_it_cannot_start(
    tmp_path: Path, processes: Processes, free_ports: Callable[[int], int]
) -> None:
    port = free_ports(2)
    Started(processes, tmp_path, port)
    fails("a master runs in .*/master already", "--dir", tmp_path / "master", "--listen", f"127.0.0.1:{port + 1}")
    taken = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port"
    fails(taken, "--dir", tmp_path / "other", "--listen", f"127.0.0.1:{port}")
    fails("metrics cannot be served at", "--dir", tmp_path / "m", "--listen", f"127.0.0.1:{port + 1}",
          "--serve-metrics", f"127.0.0.1:{port}")  # fmt: skip
    fails("'nonsense' is not an address", "--dir", tmp_path / "x", "--listen", "nonsense")
    assert attempt("--listen", "127.0.0.1:1")[0] == 2  # no --dir


def test_foreign_directories_and_certificates(tmp_path: Path, free_ports: Callable[[int], int]) -> None:
    listen = ("--listen", f"127.0.0.1:{free_ports(1)}")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    fails("is no master's directory .it has letter.txt.: choose another", "--dir", tmp_path / "home", *listen)

    async def found(name: str) -> None:
        async with master_in(tmp_path / name):
            pass

    run(found("one"))
    run(found("two"))
    one, two = tmp_path / "one" / "master", tmp_path / "two" / "master"
    theirs = ("--peer-cert", two / "master.crt", "--peer-key", two / "master.key", "--ca", two / "ca.crt")
    fails("belongs to cluster [0-9a-f]{8}, the certificates to [0-9a-f]{8}", "--dir", one, *listen, *theirs)
    mixed = ("--peer-cert", two / "master.crt", "--peer-key", one / "master.key", "--ca", two / "ca.crt")
    fails("certificate and key cannot be used together", "--dir", tmp_path / "new", *listen, *mixed)
    fails("give all three of", "--dir", tmp_path / "new2", *listen, "--ca", two / "ca.crt")
    (one / "ca.crt").unlink()
    fails("has lost ca.crt", "--dir", one, *listen)


def test_the_founding_documents_certificates(
    tmp_path: Path, processes: Processes, free_ports: Callable[[int], int]
) -> None:
    """A CA made elsewhere: the master verifies by it and cannot issue; its first client is called admin."""
    now = datetime.datetime.now(datetime.UTC)
    authority = pki.create_authority(b"e" * 16, now)
    (tmp_path / "ca.crt").write_text(authority.certificate)
    (tmp_path / "ca.key").write_text(authority.private_key)
    for name in ("master1", "master"):
        made = issued(tmp_path, MASTER)
        (tmp_path / f"{name}.crt").write_text(made.certificate)
        (tmp_path / f"{name}.key").write_text(made.private_key)
    ports = free_ports(2)
    master = Started(
        processes, tmp_path, ports, "--peer-listen", f"127.0.0.1:{ports + 1}",
        "--peer-cert", tmp_path / "master1.crt", "--peer-key", tmp_path / "master1.key", "--ca", tmp_path / "ca.crt",
        "--cert", tmp_path / "master.crt", "--key", tmp_path / "master.key",
    )  # fmt: skip

    async def scenario() -> None:
        daemon = PlayedDaemon(1, issued(tmp_path, DAEMON))
        answer = await daemon.register_at(("127.0.0.1", ports + 1))
        assert answer.cluster == b"e" * 16
        context = client_context(issued(tmp_path, client_role("admin")))
        connection = await dial(master.address, context, MASTER, Quiet())
        await connection.call(Hello("test"), Welcome)
        with pytest.raises(StoreError, match="does not have the CA's key"):
            await connection.call(JoinTicketCreate(role="daemon"), JoinTicketIs)

    run(scenario())


def test_metrics(tmp_path: Path, processes: Processes, free_ports: Callable[[int], int]) -> None:
    ports = free_ports(2)
    metrics = f"127.0.0.1:{ports + 1}"
    master = Started(processes, tmp_path, ports, "--serve-metrics", metrics)
    with (
        pytest.raises(OSError, match=r"(?i)reset|closed|ssl|protocol|wrong"),
        urllib.request.urlopen(f"http://127.0.0.1:{ports}/", timeout=5),
    ):
        pass
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'hyphae_master_refused_total{reason="protocol"} 1.0' in text
    assert 'hyphae_master_devices{state="up"} 0.0' in text and "hyphae_master_commits_total" in text
    assert processes.end(master.process) == 0
