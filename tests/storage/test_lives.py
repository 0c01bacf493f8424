"""Random lives of a disk with kills and power cuts, each recovery compared with the model."""

import pytest

from tests.storage.lifecycle import Life

LIVES = 40  # per test
CRASHES = 4  # per life


@pytest.mark.parametrize("first", range(0, 14 * LIVES, LIVES))
def test_whatever_happens_the_disk_holds_what_the_model_holds(first: int) -> None:
    for seed in range(first, first + LIVES):
        life = Life(seed)
        for _ in range(CRASHES):
            try:
                life.run(60)
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
