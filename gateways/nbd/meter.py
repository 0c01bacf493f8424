"""What the NBD gateway did, counted under one short lock and read by Prometheus only when it asks."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from store.addresses import Address, format_address
from store.errors import ConfigError

BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 20.0)
KINDS: Final = ("read", "write", "flush", "clear", "extents")


class Kind:
    """Requests of one kind."""

    __slots__ = ("buckets", "bytes", "errors", "seconds")

    def __init__(self) -> None:
        self.bytes = self.errors = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS_S) + 1)


class Meter:
    """All requests of this process. Threads may call every method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds = {name: Kind() for name in KINDS}
        self.in_flight = 0  # moved by `begin` and `end`; exact, since both hold the lock

    def begin(self) -> None:
        with self._lock:
            self.in_flight += 1

    def end(self, kind: str, size: int, seconds: float, failed: int) -> None:
        """`failed`: 1 if the request ended with an error, else 0."""
        place = bisect_left(BOUNDS_S, seconds)
        with self._lock:
            row = self._kinds[kind]
            row.bytes += size
            row.errors += failed
            row.seconds += seconds
            row.buckets[place] += 1
            self.in_flight -= 1

    def families(self, gauges: Iterable[tuple[str, str, float]]) -> Iterable[Metric]:
        """For Prometheus; `gauges` are (name, help, value) that others know."""
        seconds = HistogramMetricFamily("hyphae_nbd_request_seconds", "Time of NBD requests.", labels=["kind"])
        moved = CounterMetricFamily("hyphae_nbd_bytes", "Bytes of NBD requests.", labels=["kind"])
        errors = CounterMetricFamily("hyphae_nbd_errors", "NBD requests that failed.", labels=["kind"])
        with self._lock:
            for name, row in self._kinds.items():
                seconds.add_metric([name], _cumulated(row.buckets), row.seconds)
                moved.add_metric([name], row.bytes)
                errors.add_metric([name], row.errors)
            in_flight = self.in_flight
        yield from (seconds, moved, errors)
        for gauge, text, value in (("in_flight", "NBD requests under way.", float(in_flight)), *gauges):
            yield GaugeMetricFamily(f"hyphae_nbd_{gauge}", text, value=value)


class _Collector:
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect


def serve(address: Address, collect: Callable[[], Iterable[Metric]]) -> Callable[[], None]:
    """Answers scrapes at `address` from a thread of its own; returns what stops it. Raises ConfigError."""
    from prometheus_client import start_http_server  # noqa: PLC0415  http.server costs 8 MiB: only for those who ask

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(collect))
    try:
        server, thread = start_http_server(address[1], address[0], registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be served at {format_address(address)}: {error.strerror}") from error

    def stop() -> None:
        server.shutdown()
        thread.join()

    return stop


def _cumulated(buckets: list[int]) -> list[tuple[str, float]]:
    rows, total = [], 0
    for bound, count in zip((*(str(bound) for bound in BOUNDS_S), "+Inf"), buckets, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows
