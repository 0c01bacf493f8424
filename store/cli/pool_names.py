"""From a pool's name to its number, asked of the master."""

from store.cli.asking import ask
from store.client.config import ClientConfig
from store.control.messages import PoolList, PoolsAre
from store.errors import Status, StoreError


def pool_number(config: ClientConfig, name: str) -> int:
    """Raises StoreError if there is no such pool."""
    pools = ask(config, PoolList(), PoolsAre).pools
    for pool in pools:
        if pool.name == name:
            return pool.number
    known = ", ".join(pool.name for pool in pools) or "none yet"
    raise StoreError(
        Status.NOT_FOUND, f"no pool '{name}' (there are: {known}); `store pool create {name} --replicas N`"
    )
