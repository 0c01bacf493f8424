"""`python -m daemon`: one storage daemon in the foreground. `store file-store` and `store up` start it so."""

import shutil
import sys

import uvloop

from daemon.server import Daemon
from daemon.settings import Settings, parse_arguments
from store.addresses import format_address
from store.errors import ConfigError, StoreError
from store.logs import configure_log


async def serve(settings: Settings) -> None:
    daemon = Daemon(settings)
    try:
        await daemon.start()
        alone = "" if settings.master else "; without a master it serves only this user's programs on this machine"
        print(f"device {daemon.device.hex()} listens on {format_address(daemon.address)} (UDP){alone}", flush=True)
        await daemon.run_until_stopped()
    finally:
        await daemon.stop()


def main(arguments: list[str]) -> int:
    configure_log()
    try:
        settings = parse_arguments(arguments)
        uvloop.run(serve(settings))
    except (ConfigError, StoreError) as error:
        print(f"daemon: {error}", file=sys.stderr)
        return 1
    finally:
        if "settings" in locals() and settings.in_memory:
            shutil.rmtree(settings.directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
