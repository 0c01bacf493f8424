"""One writer per image: a second is refused, a reader is not, and who was replaced can change nothing any more."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from store.client.blocking import BlockingClient
from store.client.blocking_open import close_image, open_image
from store.client.config import load_config
from store.control.messages import Mode
from store.errors import Status, StoreError
from store.limits import BLOCK, IMAGE_LOCK_LEASE_S
from tests.system.local import LocalCluster

# Opens the image, writes `old` into its first block, and then, after each line on stdin, tries to write `late` there.
WRITER = """
import sys
from pathlib import Path
import structlog
from store.client.blocking import BlockingClient
from store.client.blocking_open import open_image
from store.client.config import load_config

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
client = BlockingClient.connect(load_config(Path(sys.argv[1])), timeout_s=20.0)
image = open_image(client, "main", "disk", holder="the first writer")
image.write(0, memoryview(b"old " * 1024), True)
print("ready", flush=True)
for _ in sys.stdin:
    try:
        image.write(0, memoryview(b"late" * 1024), True)
        print("written", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


@pytest.fixture
def cluster(idle_cluster: LocalCluster) -> LocalCluster:
    idle_cluster.start("--no-nbd", "--image", "disk=64M")
    return idle_cluster


@pytest.fixture
def writer(cluster: LocalCluster) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-c", WRITER, str(cluster.config)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def content(client: BlockingClient, mode: Mode) -> bytes:
    image = open_image(client, "main", "disk", mode)
    buffer = bytearray(BLOCK)
    image.read_into(0, memoryview(buffer))
    close_image(client, image)
    return bytes(buffer[:4])


def test_a_second_writer_is_refused_and_a_reader_is_not(cluster: LocalCluster, writer: subprocess.Popen[str]) -> None:
    with BlockingClient.connect(load_config(cluster.config)) as client:
        with pytest.raises(StoreError, match="the first writer") as caught:
            open_image(client, "main", "disk")
        assert caught.value.status == Status.BUSY
        assert content(client, Mode.READ) == b"old "
        assert content(client, Mode.TAKE) == b"old "


def test_a_killed_writer_of_this_machine_is_replaced_at_once(cluster: LocalCluster) -> None:
    line = [sys.executable, "-c", WRITER.replace(', holder="the first writer"', ""), str(cluster.config)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.kill()
    with BlockingClient.connect(load_config(cluster.config)) as client:
        assert content(client, Mode.WRITE) == b"old "


def test_a_writer_that_slept_past_its_lease_is_replaced_and_wakes_up_fenced(
    cluster: LocalCluster, writer: subprocess.Popen[str]
) -> None:
    assert writer.stdin is not None and writer.stdout is not None
    os.kill(writer.pid, signal.SIGSTOP)
    with BlockingClient.connect(load_config(cluster.config)) as client:
        end = time.monotonic() + IMAGE_LOCK_LEASE_S + 15
        while True:
            try:
                image = open_image(client, "main", "disk")
                break
            except StoreError as error:
                assert error.status == Status.BUSY and time.monotonic() < end
                time.sleep(1.0)  # a poll of the lease, which has no event to wait for
        image.write(0, memoryview(b"new " * 1024), False)
        os.kill(writer.pid, signal.SIGCONT)
        writer.stdin.write("\n")
        writer.stdin.flush()
        assert "taken the image over" in writer.stdout.readline()
        buffer = bytearray(BLOCK)
        image.flush()
        image.read_into(0, memoryview(buffer))
        assert buffer[:4] == b"new "
        close_image(client, image)
