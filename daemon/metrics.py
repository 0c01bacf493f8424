"""Counters of a daemon: plain integers on the hot path, read by Prometheus only when it asks."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from store.addresses import Address
from store.errors import ConfigError


class DaemonCounters:
    """What happened since the start. `transport` counters live in the session service, which adds to them itself.

    Seconds are sums: divided by their counts, over any interval, they are the mean latency of that interval.
    """

    __slots__ = (
        "batches", "commit_seconds", "commits", "frames_in", "frames_refused", "peer_bytes_out", "reads",
        "sync_seconds", "syncs", "writes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reads = self.writes = self.commits = self.batches = self.frames_in = self.peer_bytes_out = self.syncs = 0
        self.frames_refused = 0
        self.sync_seconds = self.commit_seconds = 0.0


Sample = tuple[str, str, float, bool]  # name, help, value, whether it only rises


class Collector:
    """Turns samples taken at scrape time into metric families."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        for name, text, value, rises in self._samples():
            yield (CounterMetricFamily if rises else GaugeMetricFamily)(name, text, value=value)


def serve(address: Address, samples: Callable[[], Iterable[Sample]]) -> Callable[[], None]:
    """Answer scrapes at `address` from a thread of its own; returns what stops it. Raises ConfigError."""
    from prometheus_client import start_http_server  # noqa: PLC0415  http.server costs 8 MiB: only for those who ask

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(samples))
    try:
        server, thread = start_http_server(address[1], address[0], registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be served at {address[0]}:{address[1]}: {error.strerror}") from error

    def stop() -> None:
        server.shutdown()
        thread.join()

    return stop
