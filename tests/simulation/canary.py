"""How a canary is registered and let loose."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

Patch = tuple[Any, str, Any]  # owner, attribute, replacement
Make = Callable[[], Iterable[Patch]]
REGISTERED: Final[dict[str, tuple[tuple[str, ...], Make]]] = {}


def canary(*features: str) -> Callable[[Make], Make]:
    """Register a variant under its function's name, with the features to force."""

    def register(make: Make) -> Make:
        REGISTERED[make.__name__] = (features, make)
        return make

    return register


@contextlib.contextmanager
def broken(*rules: str) -> Iterator[None]:
    """The cores without these rules, inside the block."""
    undo: list[Patch] = []
    try:
        for rule in rules:
            for owner, name, replacement in REGISTERED[rule][1]():
                undo.append((owner, name, getattr(owner, name)))
                setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in reversed(undo):
            setattr(owner, name, original)
