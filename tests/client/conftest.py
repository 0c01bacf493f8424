from collections.abc import Iterator
from pathlib import Path

import pytest

from store import direct
from tests.client.live import LiveDaemon


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of this test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return direct.runtime_directory()


@pytest.fixture
def daemon(runtime: Path) -> Iterator[LiveDaemon]:
    live = LiveDaemon(runtime).start()
    yield live
    live.stop()
