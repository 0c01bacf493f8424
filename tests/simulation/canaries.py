"""Known-broken variants: each removes one rule by replacing the method that keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def broken(*rules: str) -> Iterator[None]:
    yield
