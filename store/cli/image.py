"""`store image`: thin block devices kept in a pool."""

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from store.cli.asking import ask, configured
from store.cli.image_content import remove_image, shrink_image
from store.cli.output import Json, say, seconds, show_json, show_table
from store.client.config import ClientConfig
from store.control.messages import ImageCreate, ImageInfo, ImageIs, ImageList, ImageResize, ImagesAre, ImageStat
from store.errors import ConfigError
from store.sizes import format_size, parse_size

DEFAULT_POOL: Final = "main"

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Thin block devices kept in a pool.\n\n"
    "An image takes no space until it is written to, and gives space back when blocks are discarded (fstrim). "
    "Use one with [bold]store attach IMG --mkfs ext4 --mount DIR[/bold], or serve it with [bold]store nbd[/bold].",
)

Config = Annotated[Path | None, typer.Option("--config", help="The cluster's client.toml.")]
Name = Annotated[str, typer.Argument(metavar="IMG", help="Name of the image.")]
Pool = Annotated[str | None, typer.Option(help="Its pool (default: the configuration's, else main).")]
Size = Annotated[str, typer.Option(help="For example 512M, 10G or 2T.")]


def pool_or_default(config: ClientConfig, pool: str | None) -> str:
    """The pool that is named, else the configuration's, else `main`."""
    return pool or config.pool or DEFAULT_POOL


@app.command()
def create(context: typer.Context, image: Name, size: Size, pool: Pool = None, config: Config = None) -> None:
    """Create an image. It takes no space until it is written to."""
    configuration = configured(context.obj, config)
    message = ImageCreate(pool=pool_or_default(configuration, pool), name=image, size=parse_size(size))
    made = ask(configuration, message, ImageIs).image
    say(f"image {made.pool}/{made.name}: {format_size(made.size)}")
    say(f"next: `store attach {made.name} --mkfs ext4 --mount DIR`")


@app.command("ls")
def list_images(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Only those of this pool.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """List the images, and who has them open for writing."""
    images = ask(configured(context.obj, config), ImageList(pool=pool or ""), ImagesAre).images
    if as_json:
        show_json([as_dict(image) for image in images])
        return
    show_table(
        ("POOL", "NAME", ">SIZE", "CREATED", "WRITER"),
        (
            (image.pool, image.name, format_size(image.size), _day(image.created), image.holder or "-")
            for image in images
        ),
        "no images; make one with `store image create IMG --size 10G`",
    )


@app.command()
def info(context: typer.Context, image: Name, pool: Pool = None, as_json: Json = False, config: Config = None) -> None:
    """Show one image: size, identity, lock."""
    configuration = configured(context.obj, config)
    found = ask(configuration, ImageStat(pool=pool_or_default(configuration, pool), name=image), ImageIs).image
    if as_json:
        show_json(as_dict(found))
        return
    writer = f"{found.holder}, lease ends in {seconds(found.expires_in)}" if found.holder else "nobody"
    print(f"image     {found.pool}/{found.name}")
    print(f"size      {format_size(found.size)} ({found.size} bytes), in objects of {format_size(found.object_size)}")
    print(f"created   {_day(found.created)}")
    print(f"id        {found.id:016x}, lock generation {found.generation}")
    print(f"writer    {writer}")


@app.command()
def resize(
    context: typer.Context,
    image: Name,
    size: Size,
    pool: Pool = None,
    shrink: Annotated[
        bool,
        typer.Option("--shrink", help="Cut it: what lies beyond the new end is gone. Shrink the file system first."),
    ] = False,
    config: Config = None,
) -> None:
    """Make an image larger, or with --shrink smaller. Then grow its file system, for example with resize2fs."""
    configuration = configured(context.obj, config)
    chosen, wanted = pool_or_default(configuration, pool), parse_size(size)
    before = ask(configuration, ImageStat(pool=chosen, name=image), ImageIs).image.size
    if wanted < before and not shrink:
        raise ConfigError(f"image {image} has {format_size(before)}: say --shrink to cut it, and lose what is beyond")
    if wanted < before:
        shrink_image(configuration, chosen, image, wanted)
    else:
        ask(configuration, ImageResize(pool=chosen, name=image, size=wanted), ImageIs)
    say(f"image {chosen}/{image} is now {format_size(wanted)}")


@app.command("rm")
def remove(context: typer.Context, image: Name, pool: Pool = None, config: Config = None) -> None:
    """Remove an image with everything in it, for good. Refused while somebody has it open for writing."""
    configuration = configured(context.obj, config)
    chosen = pool_or_default(configuration, pool)
    ask(configuration, ImageStat(pool=chosen, name=image), ImageIs)  # a wrong name is told at once
    remove_image(configuration, chosen, image)
    say(f"image {chosen}/{image} removed")


def as_dict(image: ImageInfo) -> dict[str, object]:
    """The image as `--json` shows it."""
    return {
        "name": image.name,
        "pool": image.pool,
        "id": f"{image.id:016x}",
        "size": image.size,
        "object_size": image.object_size,
        "prefix": image.prefix.decode("utf-8", "backslashreplace"),
        "created": image.created,
        "lock_generation": image.generation,
        "writer": image.holder or None,
        "lock_expires_in": image.expires_in,
    }


def _day(seconds_since_1970: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds_since_1970))
