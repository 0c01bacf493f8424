"""What the documents point at is there: files they name, links, commands and options."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`([A-Za-z_][\w./-]*\.(?:py|md|toml|lock))`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
OPTION = re.compile(r"(--[a-z][a-z-]+)")


def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts}
    return set(done.stdout.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_links_exist(document: Path) -> None:
    files = tracked()
    basenames = {path.rpartition("/")[2] for path in files} | {"client.toml"}  # written at run time
    text = document.read_text()
    for named in FILE.findall(text):
        assert named in files or ("/" not in named and named in basenames), named
    for target in LINK.findall(text):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_exist(document: Path) -> None:
    """Every long option that is shown is one of ours or of a program that the line names."""
    sources = "".join(path.read_text() for path in (ROOT / "store/cli").glob("*.py"))
    derived = set(OPTION.findall(sources)) | {
        "--" + word.replace("_", "-") for word in re.findall(r"\b[a-z_]+\b", sources)
    }
    assert not set(OPTION.findall(document.read_text())) - derived - {"--help", "--version"}
