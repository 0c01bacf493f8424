"""One seed, one verdict."""

from __future__ import annotations

from daemon.core.log import Broken
from tests.simulation.checkers import ViolationError
from tests.simulation.world import World

# What a core that ran off its rails may raise; a correct one never does.
DERAILED = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def run_seed(seed: int, features: tuple[str, ...] = (), trace: list[str] | None = None) -> str | None:
    """None if all is well, else one line."""
    try:
        World(seed, features, trace).run()
    except (ViolationError, Broken) as problem:
        return f"{type(problem).__name__}: {problem}"
    except DERAILED as problem:
        if trace is not None:
            raise
        return f"derailed: {type(problem).__name__} {problem}"
    return None
