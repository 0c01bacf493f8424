"""The blocking client and its images over real sockets."""

import errno
import random
import threading
from collections.abc import Iterator

import pytest

from store.client.blocking import BlockingClient
from store.client.blocking_image import BlockingImage
from store.client.blocking_open import close_image, open_image
from store.client.connection import clock
from store.client.operation import Operation
from store.errors import Status
from store.limits import BLOCK, MIB, OBJECT_MAX
from store.wire.header import Op
from tests.client.live import LiveDaemon

SIZE = 32 * MIB


@pytest.fixture
def client(daemon: LiveDaemon) -> Iterator[BlockingClient]:
    with BlockingClient.connect_direct(daemon.address, timeout_s=10.0) as client:
        yield client


@pytest.fixture
def image(client: BlockingClient) -> BlockingImage:
    return open_image(client, "pool", "disk", size=SIZE)


def read(image: BlockingImage, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xff" * length)
    image.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_what_was_never_written_reads_as_zeros(image: BlockingImage) -> None:
    assert read(image, 12345, 100_000) == bytes(100_000)
    assert read(image, OBJECT_MAX - 10, 20) == bytes(20)


def test_any_sequence_of_requests_behaves_as_a_disk(daemon: LiveDaemon, client: BlockingClient) -> None:
    """Power goes between; another process opens the image at the end and finds what was flushed."""
    image = open_image(client, "pool", "disk", size=SIZE)
    rng, truth = random.Random(1), bytearray(SIZE)
    for step in range(300):
        offset = min(rng.randrange(SIZE), SIZE - 1)
        length = min(rng.choice((1, 100, 512, BLOCK, 3 * BLOCK, 70_000)), SIZE - offset)
        if rng.random() < 0.5:
            offset = offset // BLOCK * BLOCK
        action = rng.choice(("write", "write", "write", "durable", "clear", "read", "read", "flush", "cut"))
        if action in ("write", "durable"):
            data = rng.randbytes(length)
            image.write(offset, memoryview(data), action == "durable")
            truth[offset : offset + length] = data
        elif action == "clear":
            image.clear(offset, length)
            truth[offset : offset + length] = bytes(length)
        elif action == "read":
            assert read(image, offset, length) == truth[offset : offset + length], step
        elif action == "flush":
            image.flush()
        elif action == "cut" and step % 5 == 0:
            with daemon.lock:
                daemon.state.power_cut()
    close_image(client, image)
    with daemon.lock:
        daemon.state.power_cut()
    again = open_image(client, "pool", "disk")
    for offset in range(0, SIZE, OBJECT_MAX):
        assert read(again, offset, OBJECT_MAX) == truth[offset : offset + OBJECT_MAX]


def test_clearing_gives_back_whole_objects(daemon: LiveDaemon, image: BlockingImage) -> None:
    image.write(0, memoryview(b"x" * (2 * OBJECT_MAX)), True)
    image.clear(0, SIZE)
    with daemon.lock:
        assert [name for _, name in daemon.state.objects if name.startswith(b"pool/disk.")] == []
    assert read(image, 0, 10) == bytes(10)


def test_extents_tell_what_is_stored(image: BlockingImage) -> None:
    image.write(OBJECT_MAX, memoryview(b"x" * BLOCK), False)
    image.write(2 * OBJECT_MAX, memoryview(b"x" * OBJECT_MAX), True)
    found = [(extent.offset, extent.length, extent.hole) for extent in image.extents(0, SIZE)]
    assert found[0] == (0, OBJECT_MAX, True)
    assert not found[1][2] and found[1][0] == OBJECT_MAX
    assert found[-1] == (3 * OBJECT_MAX, SIZE - 3 * OBJECT_MAX, True)
    assert sum(length for _, length, _ in found) == SIZE


def test_the_one_who_opens_last_has_the_image(client: BlockingClient, image: BlockingImage) -> None:
    image.write(0, memoryview(b"first"), True)
    image.held.layout.generation -= 1  # as if a second had passed since
    open_image(client, "pool", "disk")
    with pytest.raises(OSError, match="taken the image over") as caught:
        image.write(0, memoryview(b"second"), False)
    assert caught.value.errno == errno.EROFS


def test_a_full_disk_is_told_and_reading_goes_on(daemon: LiveDaemon, image: BlockingImage) -> None:
    image.write(0, memoryview(b"kept"), True)
    with daemon.lock:
        daemon.state.full = True
    with pytest.raises(OSError, match="full") as caught:
        image.write(BLOCK, memoryview(b"x" * BLOCK), False)
    assert caught.value.errno == errno.ENOSPC
    assert read(image, 0, 4) == b"kept"


def test_silence_ends_with_an_error_and_the_image_works_again_afterwards(
    daemon: LiveDaemon, client: BlockingClient
) -> None:
    image = open_image(client, "pool", "disk", size=SIZE)
    image.timeout_s = 1.0
    with daemon.lock:
        daemon.daemon.alive = False
    with pytest.raises(OSError, match=r"no answer|can be reached") as caught:
        image.write(0, memoryview(b"x" * BLOCK), False)
    assert caught.value.errno == errno.EIO
    with daemon.lock:
        daemon.daemon.alive = True
    image.timeout_s = 10.0
    image.write(0, memoryview(b"y" * BLOCK), False)
    image.flush()
    assert read(image, 0, BLOCK) == b"y" * BLOCK


def test_a_daemon_started_anew_is_found_again(daemon: LiveDaemon, image: BlockingImage) -> None:
    image.write(0, memoryview(b"x" * BLOCK), True)
    daemon.renew_secret()
    image.write(0, memoryview(b"y" * BLOCK), True)
    assert read(image, 0, BLOCK) == b"y" * BLOCK


def test_clearing_what_is_not_there_leaves_no_record(daemon: LiveDaemon, image: BlockingImage) -> None:
    image.write(5 * OBJECT_MAX, memoryview(b"x" * BLOCK), True)
    with daemon.lock:
        before = len(daemon.state.answers)
    image.clear(0, SIZE)
    with daemon.lock:
        assert len(daemon.state.answers) == before + 1
    assert read(image, 5 * OBJECT_MAX, BLOCK) == bytes(BLOCK)


def test_many_threads_on_few_blocks(image: BlockingImage) -> None:
    """Each thread owns a column of every block; all of them write to the same blocks, unaligned and overlapping."""
    threads, blocks, width = 8, 6, BLOCK // 8
    failures: list[BaseException] = []

    def work(column: int) -> None:
        rng = random.Random(column)
        mine = [bytes(width)] * blocks
        try:
            for _ in range(60):
                block = rng.randrange(blocks)
                at = block * BLOCK + column * width
                if rng.random() < 0.6:
                    mine[block] = rng.randbytes(width)
                    image.write(at, memoryview(mine[block]), rng.random() < 0.1)
                elif rng.random() < 0.2:
                    image.flush()
                else:
                    assert read(image, at, width) == mine[block]
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            failures.append(error)

    workers = [threading.Thread(target=work, args=(column,)) for column in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures and not any(worker.is_alive() for worker in workers)


def test_threads_share_a_socket_and_whoever_gives_up_hands_the_lead_over(
    daemon: LiveDaemon, client: BlockingClient
) -> None:
    """While the daemon is silent the impatient end with errors, leaders among them; the patient all succeed."""
    image = open_image(client, "pool", "disk", size=SIZE)
    outcomes: list[tuple[bool, bool]] = []  # patient, succeeded

    def work(number: int) -> None:
        patient = number % 3 != 0
        for turn in range(20):
            group, name = image.held.layout.place(number % 8)
            until = clock() + (20.0 if patient else 0.2)
            operation = Operation(Op.STAT, group, name, until)
            client.perform(operation)
            outcomes.append((patient, operation.status in (Status.OK, Status.NOT_FOUND)))
            if number == 1 and turn == 5:
                with daemon.lock:
                    daemon.daemon.alive = False
                threading.Timer(0.7, awake).start()

    def awake() -> None:
        with daemon.lock:
            daemon.daemon.alive = True

    workers = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
    assert len(outcomes) == 24 * 20
    assert all(succeeded for patient, succeeded in outcomes if patient)


def test_unflushed_data_are_bounded(daemon: LiveDaemon, image: BlockingImage) -> None:
    image._core._kept_soft, image._core._kept_max = 8 * BLOCK, 16 * BLOCK
    for block in range(200):
        image.write(block * BLOCK, memoryview(bytes([block]) * BLOCK), False)
        assert image.kept_bytes <= 16 * BLOCK
    image.flush()
    assert image.kept_bytes == 0
    assert read(image, 77 * BLOCK, BLOCK) == bytes([77]) * BLOCK
