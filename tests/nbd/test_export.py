"""Exports without nbdkit: sharing, names, metrics."""

import errno
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateways.nbd.export import Gateway, errno_of
from gateways.nbd.settings import Settings
from store.errors import ConfigError, Status, StoreError
from store.limits import BLOCK, MIB
from tests.client.live import LiveDaemon


@pytest.fixture
def gateway(daemon: LiveDaemon) -> Iterator[Gateway]:
    settings = Settings(daemon=daemon.address, pool="p", images=["disk", "other"], size=16 * MIB, timeout_s=10.0)
    gateway = Gateway(settings)
    gateway.start()
    yield gateway
    gateway.stop()


def test_connections_share_the_image(gateway: Gateway) -> None:
    one, two = gateway.open("disk", False), gateway.open("disk", False)
    one.pwrite(memoryview(b"x" * BLOCK), 0, False)
    buffer = bytearray(BLOCK)
    two.pread(memoryview(buffer), 0)
    assert buffer == b"x" * BLOCK
    two.flush()
    gateway.close(one)
    two.pwrite(memoryview(b"y" * BLOCK), 0, False)
    gateway.close(two)
    again = gateway.open("disk", False)
    again.pread(memoryview(buffer), 0)
    assert buffer == b"y" * BLOCK
    gateway.close(again)


def test_a_wrong_name_is_told_with_the_right_ones(gateway: Gateway) -> None:
    assert [name for name, _ in gateway.exports()] == ["disk", "other"]
    assert gateway.default_export() == ""
    with pytest.raises(ConfigError, match="exports: disk, other"):
        gateway.open("disc", False)
    with pytest.raises(ConfigError, match="no export ''"):
        gateway.open("", False)


def test_clear_and_extents(gateway: Gateway) -> None:
    export = gateway.open("disk", False)
    export.pwrite(memoryview(b"x" * BLOCK), 4 * MIB, True)
    assert [extent.hole for extent in export.extents(export.size, 0)] == [True, False, True]
    export.clear(export.size, 0)
    assert [extent.hole for extent in export.extents(export.size, 0)] == [True]
    gateway.close(export)


def test_errors_have_an_errno() -> None:
    assert errno_of(OSError(errno.ENOSPC, "full")) == errno.ENOSPC
    assert errno_of(StoreError(Status.BUSY, "busy")) == errno.EIO


def test_metrics(gateway: Gateway) -> None:
    export = gateway.open("disk", False)
    export.pwrite(memoryview(b"x" * BLOCK), 0, False)
    export.pread(memoryview(bytearray(BLOCK)), 0)
    export.flush()

    class Collected:
        collect = staticmethod(gateway._families)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    text = generate_latest(registry).decode()
    assert 'hyphae_nbd_bytes_total{kind="write"} 4096.0' in text
    assert 'hyphae_nbd_request_seconds_count{kind="flush"} 1.0' in text
    assert "hyphae_nbd_in_flight 0.0" in text and "hyphae_nbd_open_images 1.0" in text
    gateway.close(export)
