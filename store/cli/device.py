"""`store device`: the disks of the cluster."""

from pathlib import Path
from typing import Annotated

import typer

from store.addresses import format_address
from store.cli.asking import ask, configured
from store.cli.output import Json, seconds, show_json, show_table
from store.control.messages import DeviceList, DevicesAre, DeviceStatus
from store.sizes import format_size

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The disks of the cluster: one storage daemon each.\n\n"
    "A device is [bold]up[/bold], [bold]suspect[/bold] (silent for 10 s) or [bold]down[/bold] (for 30 s). "
    "Data are safe as long as one device that holds every acknowledged write of a group is up.",
)

Config = Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")]


@app.command("ls")
def list_devices(context: typer.Context, as_json: Json = False, config: Config = None) -> None:
    """List the devices: where they are, how full, and of how many groups they hold current copies."""
    devices = ask(configured(context.obj, config), DeviceList(), DevicesAre).devices
    if as_json:
        show_json([as_dict(device) for device in devices])
        return
    show_devices(devices)


def show_devices(devices: tuple[DeviceStatus, ...]) -> None:
    """The table of `store device ls` and of `store status`."""
    show_table(
        ("NAME", "STATE", "ADDRESS", "HOST", "ZONE", ">USED", ">CAPACITY", ">GROUPS", ">IN SYNC", ">PRIMARY"),
        (
            (
                device.name,
                device.state if device.silent_for < 10 else f"{device.state} ({seconds(device.silent_for)})",
                format_address(device.address),
                device.host,
                device.zone or "-",
                format_size(device.used),
                format_size(device.capacity),
                str(device.groups),
                str(device.in_sync),
                str(device.primaries),
            )
            for device in devices
        ),
        "no devices; start one with `store file-store --master …`",
    )


def as_dict(device: DeviceStatus) -> dict[str, object]:
    """The device as `--json` shows it."""
    return {
        "id": device.id.hex(),
        "name": device.name,
        "host": device.host,
        "zone": device.zone,
        "address": format_address(device.address),
        "peer_address": format_address(device.peer),
        "capacity": device.capacity,
        "used": device.used,
        "state": device.state,
        "silent_for": device.silent_for,
        "groups": device.groups,
        "groups_in_sync": device.in_sync,
        "groups_primary": device.primaries,
    }
