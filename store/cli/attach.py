"""`store attach` and `store detach`: an image as a block device of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from store.cli import attachment
from store.cli.asking import ask, configured
from store.cli.image import pool_or_default
from store.cli.output import say
from store.control.messages import ImageIs, ImageStat

Image = Annotated[str, typer.Argument(metavar="IMG", help="Name of the image.")]
Pool = Annotated[str | None, typer.Option(help="Its pool (default: the configuration's, else main).")]


def attach(
    context: typer.Context,
    image: Image,
    pool: Pool = None,
    mkfs: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="First make a file system (ext4, …); never over one that is there."),
    ] = None,
    mount: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Mount it there; the directory is made if missing.")
    ] = None,
    via: Annotated[
        attachment.Via, typer.Option(help="The kernel's own NBD client, or nbdfuse with a loop device.")
    ] = attachment.Via.AUTO,
    config: Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")] = None,
) -> None:
    """Make an image a block device here (as root), format it and mount it if asked to.

    Prints the device. It stays attached after the command has ended, until [bold]store detach[/bold].
    Example: [bold]store attach book --mkfs ext4 --mount /mnt/book[/bold]
    """
    configuration = configured(context.obj, config)
    chosen = pool_or_default(configuration, pool)
    ask(configuration, ImageStat(pool=chosen, name=image), ImageIs)  # a wrong name is told at once
    made = attachment.attach(configuration.path, chosen, image, via, mkfs, mount and mount.absolute())
    print(made.device)
    if made.mount is not None:
        say(f"{chosen}/{image} is mounted on {made.mount}; `store detach {image}` undoes it")


def detach(
    image: Image, pool: Annotated[str | None, typer.Option(help="Its pool, if the name alone is not enough.")] = None
) -> None:
    """Unmount an image and remove its device. What was written is flushed before."""
    made = attachment.find(image, pool)
    attachment.detach(made)
    say(f"{made.pool}/{made.image} is detached")
