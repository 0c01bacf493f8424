"""The master's figures for Prometheus: read when a scrape asks, kept nowhere else."""

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from master.clients import ClientDesk
from master.cluster import Cluster
from master.daemons import DaemonDesk
from master.publisher import Publisher
from store.addresses import Address, format_address
from store.errors import ConfigError


class Figures:
    """What a scrape shows; names begin with hyphae_master_."""

    def __init__(
        self, cluster: Cluster, publisher: Publisher, daemons: DaemonDesk, clients: ClientDesk, refused: Counter[str]
    ) -> None:
        self._cluster, self._publisher, self._daemons, self._clients = cluster, publisher, daemons, clients
        self._refused = refused

    def collect(self) -> Iterable[Metric]:
        cluster = self._cluster
        refused = CounterMetricFamily(
            "hyphae_master_refused", "connections and requests turned away", labels=("reason",)
        )
        for reason, count in sorted(self._refused.items()):
            refused.add_metric((reason,), count)
        yield refused
        states: Counter[str] = Counter(status.state for status in cluster.device_statuses())
        devices = GaugeMetricFamily("hyphae_master_devices", "devices by state", labels=("state",))
        for state in ("up", "suspect", "down", "draining", "lost"):
            devices.add_metric((state,), states[state])
        yield devices
        pools = [cluster.pool_status(pool) for pool in cluster.pools.all()]
        for name, text, value in (
            ("groups", "groups of all pools", sum(pool.groups for pool in pools)),
            ("groups_degraded", "groups with fewer members in sync than they should have",
             sum(pool.degraded for pool in pools)),
            ("groups_unwritable", "groups that refuse writes", sum(pool.unwritable for pool in pools)),
            ("images", "images in the registry", len(cluster.images.table)),
            ("stations", "daemons connected", len(self._publisher.stations)),
            ("readers", "clients connected", len(self._publisher.readers)),
            ("map_epoch", "epoch of the storage map", cluster.cartography.epoch.value),
            ("key_epoch", "key epoch of new tickets", cluster.credentials.key_epoch),
            ("recovery_generation", "recovery generation", cluster.generation),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"hyphae_master_{name}", text, value=value)
        for name, text, value in (
            ("commits", "transactions of the store", cluster.ledger.commits),
            ("proposals", "messages of daemons to the arbiter", self._daemons.proposals),
            ("calls", "calls of clients", self._clients.calls),
            ("maps_sent", "storage maps pushed", self._publisher.maps_sent),
        ):
            yield CounterMetricFamily(f"hyphae_master_{name}", text, value=value)


def serve(address: Address, figures: Figures) -> Callable[[], None]:
    """Answer scrapes from a thread of its own; returns what stops it. Raises ConfigError."""
    from prometheus_client import start_http_server  # noqa: PLC0415 - http.server takes 8 MiB

    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    try:
        server, thread = start_http_server(address[1], address[0], registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be served at {format_address(address)}: {error.strerror}") from error

    def stop() -> None:
        server.shutdown()
        thread.join()

    return stop
