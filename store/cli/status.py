"""`store status`: is everything well, and if not, what is missing and what helps."""

import time
from pathlib import Path
from typing import Annotated

import typer

from store.cli.asking import ask, configured
from store.cli.device import as_dict as device_dict
from store.cli.device import show_devices
from store.cli.output import Json, seconds, show_json
from store.cli.pool import as_dict as pool_dict
from store.client.config import ClientConfig
from store.control.messages import GetStatus, StatusIs
from store.errors import Status, StoreError

POLL_S = 0.1
FULL, NEAR_FULL = 0.95, 0.85


def status(
    context: typer.Context,
    as_json: Json = False,
    wait: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Wait until all is well; exit 1 if it is not by then.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each finding means and what helps.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")] = None,
) -> None:
    """Show whether everything is well, the devices and the pools.

    [bold]well[/bold]: every group has all its copies. [bold]degraded[/bold]: everything is readable and writable, but
    some groups have fewer copies than they should. [bold]bad[/bold]: some groups cannot take writes.
    """
    configuration = configured(context.obj, config)
    state = _await_well(configuration, wait) if wait is not None else ask(configuration, GetStatus(), StatusIs)
    problems = findings(state)
    if as_json:
        show_json(as_dict(state))
    else:
        _show(state, problems, explain)
    if wait is not None and health(state) != "well":
        raise StoreError(Status.UNAVAILABLE, f"not well after {wait:g} s: {problems[0][0]}")


def health(state: StatusIs) -> str:
    """`well`, `degraded` or `bad`."""
    if state.recovering or any(pool.unwritable for pool in state.pools):
        return "bad"
    return "degraded" if findings(state) else "well"


def findings(state: StatusIs) -> list[tuple[str, str]]:
    """What is not as it should be, worst first: (what, what it means and what helps)."""
    found: list[tuple[str, str]] = []
    if state.recovering:
        names = ", ".join(state.awaited)
        found.append((
            f"the master was restored and waits for {names}",
            "It acts only once those devices have told it what they hold. Start their daemons; if one is gone for "
            "good, it must be declared lost.",
        ))  # fmt: skip
    for pool in state.pools:
        if pool.unwritable:
            found.append((
                f"pool {pool.name}: {pool.unwritable} of {pool.groups} groups refuse writes",
                f"Fewer than {pool.min_write} current copies are reachable. Start the devices listed as down.",
            ))  # fmt: skip
        if pool.degraded:
            found.append((
                f"pool {pool.name}: {pool.degraded} of {pool.groups} groups have fewer than {pool.replicas} copies",
                "Nothing is lost and everything is readable, but the next failure could hit a last copy. A device "
                "that comes back catches up by itself.",
            ))  # fmt: skip
    for device in state.devices:
        if device.state in ("suspect", "down", "lost"):
            found.append((
                f"device {device.name} is {device.state}, silent for {seconds(device.silent_for)}",
                f"Look at the daemon on {device.host}: is it running, does its network work, is its disk well?",
            ))  # fmt: skip
        if device.capacity and device.used >= NEAR_FULL * device.capacity:
            word = "full" if device.used >= FULL * device.capacity else "nearly full"
            found.append((
                f"device {device.name} is {word}",
                "Delete something or add a device; a full device still deletes.",
            ))  # fmt: skip
    return found


def as_dict(state: StatusIs) -> dict[str, object]:
    """The status as `--json` shows it."""
    return {
        "health": health(state),
        "findings": [what for what, _ in findings(state)],
        "cluster": state.cluster.hex(),
        "generation": state.generation,
        "map_epoch": state.map_epoch,
        "key_epoch": state.key_epoch,
        "recovering": state.recovering,
        "uptime": state.uptime,
        "clients": state.clients,
        "images": state.images,
        "devices": [device_dict(device) for device in state.devices],
        "pools": [pool_dict(pool) for pool in state.pools],
    }


def _await_well(config: ClientConfig, limit: float) -> StatusIs:
    """The first status in which all is well, or the last one before `limit` seconds were over."""
    end = time.monotonic() + limit
    while True:
        try:
            state: StatusIs | None = ask(config, GetStatus(), StatusIs)
        except StoreError as error:
            if error.status != Status.UNAVAILABLE or time.monotonic() >= end:
                raise
            state = None
        if state is not None and (time.monotonic() >= end or (state.devices and health(state) == "well")):
            return state
        time.sleep(POLL_S)


def _show(state: StatusIs, problems: list[tuple[str, str]], explain: bool) -> None:
    print(f"health: {health(state)}")
    for what, meaning in problems:
        print(f"  {what}")
        if explain:
            print(f"      {meaning}")
    print(
        f"cluster {state.cluster.hex()[:8]}, map {state.generation}.{state.map_epoch}, up for {seconds(state.uptime)}, "
        f"{state.clients} clients connected, {state.images} images"
    )
    print()
    show_devices(state.devices)
    for pool in state.pools:
        print(
            f"\npool {pool.name}: {pool.replicas} copies, {pool.complete} of {pool.groups} groups complete, "
            f"{pool.objects} objects"
        )
