"""Traffic of a running cluster, seen and abused by somebody on the wire; clients beyond their rights; foreigners."""

import random
import socket
import ssl
import urllib.request
from pathlib import Path

import pytest

from tests.processes import wait_for
from tests.system.capture import Datagram, capturing
from tests.system.local import LocalCluster, run_store

MARK = b"the quick brown fox is nobody else's business"
NAME = "an-object-name-that-shows"
METRICS = 20  # of port base: master, then the daemons, then NBD


def daemon_ports(cluster: LocalCluster) -> set[int]:
    devices = cluster.json("device", "ls")
    return {int(device["address"].rpartition(":")[2]) for device in devices}


def total(cluster: LocalCluster, counter: str) -> float:
    """Sum of one counter over the three daemons."""
    found = 0.0
    for place in (1, 2, 3):
        url = f"http://127.0.0.1:{cluster.port_base + METRICS + place}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found += sum(float(line.split()[1]) for line in lines if line.startswith(f"{counter}_total "))
    return found


def send(datagrams: list[Datagram]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram.payload, ("127.0.0.1", datagram.port))


@pytest.fixture
def watched(idle_cluster: LocalCluster) -> LocalCluster:
    idle_cluster.start("--metrics", "--no-nbd")
    return idle_cluster


def test_nothing_of_what_is_written_can_be_read_on_the_wire(watched: LocalCluster) -> None:
    control = b"sent in the clear to see that the capture works"
    with capturing() as capture:
        send([Datagram(0, 9, control)])
        watched.store("write", "--pool", "main", NAME, "--data-literal", MARK.decode())
        assert watched.store("read", "--pool", "main", NAME).stdout == MARK
    assert capture.contains(control)
    assert capture.datagrams_to(daemon_ports(watched))
    assert not capture.contains(MARK)
    assert not capture.contains(MARK[:12])
    assert not capture.contains(NAME.encode())


def test_replayed_and_altered_datagrams_are_counted_and_change_nothing(watched: LocalCluster) -> None:
    with capturing() as capture:
        watched.store("write", "--pool", "main", "victim", "--data-literal", "first")
    captured = capture.datagrams_to(daemon_ports(watched))
    assert captured
    watched.store("write", "--pool", "main", "victim", "--data-literal", "second")

    replays = total(watched, "replays")
    send(captured)
    wait_for(lambda: total(watched, "replays") >= replays + len(captured), 10, "replays counted")

    chance = random.Random(7)
    counters = ("auth_failures", "invalid_requests", "replays")  # a replay is seen before the seal is looked at
    before = sum(total(watched, counter) for counter in counters)
    altered = []
    for datagram in captured * 20:
        spoiled = bytearray(datagram.payload)
        spoiled[chance.randrange(8, len(spoiled))] ^= 1 << chance.randrange(8)  # anything but kind and length
        altered.append(datagram._replace(payload=bytes(spoiled)))
    send(altered)

    wait_for(lambda: sum(total(watched, counter) for counter in counters) >= before + len(altered), 10, "all counted")
    assert total(watched, "auth_failures") > 0
    assert watched.store("read", "--pool", "main", "victim").stdout == b"second"


def test_noise_is_never_answered(watched: LocalCluster) -> None:
    chance = random.Random(3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in daemon_ports(watched):
            sock.settimeout(0.5)
            for _ in range(200):
                noise = b"\xa1" + chance.randbytes(chance.randrange(1500))
                sock.sendto(noise, ("127.0.0.1", port))
            with pytest.raises(TimeoutError):
                sock.recv(2048)
    assert watched.store("write", "--pool", "main", "still", "--data-literal", "works").returncode == 0


def limited_client(cluster: LocalCluster, directory: Path, *options: str) -> dict[str, str]:
    """Joins as another client with fewer rights; returns the environment that uses it."""
    made = cluster.store("join", "--new", "client", "--name", "guest", *options).stdout.decode()
    ticket = next(word for word in made.split() if word.startswith("join1."))
    cluster.store("join", ticket, "--dir", directory)
    return {**cluster.environment(), "STORE_CONFIG": str(directory / "client.toml")}


def test_a_client_keeps_to_its_pool_and_its_rights(watched: LocalCluster, tmp_path: Path) -> None:
    watched.store("pool", "create", "books", "--replicas", "3", "--groups", "16")
    watched.store("write", "--pool", "main", "secret", "--data-literal", "not yours")
    guest = limited_client(watched, tmp_path / "guest", "--pool", "books")
    assert run_store(["write", "--pool", "books", "mine", "--data-literal", "x"], guest).returncode == 0
    denied = total(watched, "transport_denied")
    for command in (
        ["write", "--pool", "main", "mine", "--data-literal", "x"],
        ["read", "--pool", "main", "secret"],
        ["delete", "--pool", "main", "secret"],
    ):
        done = run_store(command, guest)
        assert done.returncode == 1 and b"not yours" not in done.stdout, done
        assert len(done.stderr.decode().strip().splitlines()) == 1, done
    done = run_store(["pool", "create", "more", "--replicas", "1"], guest)
    assert done.returncode == 1
    assert total(watched, "transport_denied") > denied
    assert watched.store("read", "--pool", "main", "secret").stdout == b"not yours"


def test_a_join_ticket_works_once(watched: LocalCluster, tmp_path: Path) -> None:
    made = watched.store("join", "--new", "client", "--name", "guest", "--pool", "main").stdout.decode()
    ticket = next(word for word in made.split() if word.startswith("join1."))
    watched.store("join", ticket, "--dir", tmp_path / "one")
    watched.store("join", ticket, "--dir", tmp_path / "two", code=1)


def say_hello(port: int, context: ssl.SSLContext) -> None:
    """Raises when the other side refuses; under TLS 1.3 that comes with the first read."""
    with socket.create_connection(("127.0.0.1", port), 5) as raw:
        raw.settimeout(5)
        with context.wrap_socket(raw) as secured:
            secured.sendall(b"hello")
            if not secured.recv(1):
                raise ConnectionResetError("closed without a word")


def test_foreign_and_missing_certificates_are_refused(watched: LocalCluster, tmp_path: Path) -> None:
    for arguments in (["ca", "init"], ["ca", "issue", "storage001"]):
        done = run_store([*arguments, "--dir", tmp_path / "tls"], watched.environment())
        assert done.returncode == 0, done
    peers = [int(device["peer_address"].rpartition(":")[2]) for device in watched.json("device", "ls")]
    masters = [watched.port_base, watched.port_base + 10]
    for port in (*masters, *peers):
        for certificate in (None, tmp_path / "tls" / "storage001"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate is not None:
                context.load_cert_chain(certificate.with_suffix(".crt"), certificate.with_suffix(".key"))
            with pytest.raises((ssl.SSLError, ConnectionError)):
                say_hello(port, context)
    watched.await_well()
