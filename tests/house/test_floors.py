"""The house keeps its own rules: who imports whom, sizes of files and functions, words that must not appear."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("store", "daemon", "master", "gateways", "cluster")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
NEVER_NAMES = {"utils.py", "util.py", "helpers.py", "manager.py", "common.py", "misc.py"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_one_sitting(path: Path) -> None:
    """No file or function has got away; no name says nothing."""
    assert path.name not in NEVER_NAMES
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES_MAX
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{node.name}: {node.end_lineno - node.lineno + 1}" for node in functions if node.end_lineno is not None]
    assert not [entry for entry in long if int(entry.rsplit(": ")[-1]) > FUNCTION_LINES_MAX]


def test_every_package_has_a_docstring() -> None:
    bare = [str(path) for path in SOURCES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))]
    assert not bare


def test_lock_files_pin_every_direct_dependency() -> None:
    """Exact versions with hashes, and no registry's address in them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {_bare(text) for text in project["dependencies"]}
    for name, extra in (("requirements.lock", []), ("requirements-dev.lock", project["optional-dependencies"]["dev"])):
        text = (ROOT / name).read_text()
        pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line}
        assert wanted | {_bare(item) for item in extra} <= pinned
        assert "://" not in text
        blocks = text.replace("\\\n", "").splitlines()
        assert all("--hash=sha256:" in block for block in blocks if "==" in block)


def _bare(requirement: str) -> str:
    return re.split("[>=]", requirement)[0].strip().lower()
