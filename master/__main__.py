"""`python -m master`: a master in the foreground. `store master` and `store up` start it so."""

import sys

import uvloop

from master.metastore.interface import StoreFailed
from master.server import Master
from master.settings import Settings, parse_arguments
from store.addresses import format_address
from store.errors import ConfigError, StoreError
from store.logs import configure_log


async def serve(settings: Settings) -> None:
    master = Master(settings)
    try:
        await master.start()
        clients, daemons = format_address(master.address), format_address(master.peer_address)
        print(f"master of cluster {master.cluster.id.hex()}: clients at {clients}, daemons at {daemons}", flush=True)
        await master.run_until_stopped()
    finally:
        await master.stop()


def main(arguments: list[str]) -> int:
    configure_log()
    try:
        uvloop.run(serve(parse_arguments(arguments)))
    except (ConfigError, StoreError, StoreFailed) as error:
        print(f"master: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
