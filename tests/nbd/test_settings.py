"""The gateway's parameters and its launcher, without nbdkit."""

import os
import socket
import sys
from pathlib import Path

import pytest

from gateways.nbd.launch import clean_environment, command, free_socket, parse_arguments, plugin_parameters
from gateways.nbd.settings import Settings
from store.errors import ConfigError
from store.limits import MIB


def settings(*parameters: str) -> Settings:
    made = Settings()
    for parameter in parameters:
        made.put(*parameter.split("=", 1))
    made.check()
    return made


def test_the_founding_document_s_parameters() -> None:
    made = settings("storage_daemon_address=127.0.0.1:4148", "pool=testpool", "image=testblock", "size=64M")
    assert made.daemon == ("127.0.0.1", 4148) and made.pool == "testpool"
    assert made.images == ["testblock"] and made.size == 64 * MIB


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (["colour=red"], "unknown parameter 'colour'"),
        (["master=nowhere"], "not an address"),
        (["timeout=soon"], "timeout=soon"),
        (["timeout=0"], "timeout=0"),
        (["storage_daemon_address=127.0.0.1:4148"], "image=NAME"),
        (["image=a", "size=1G"], "store image create"),
    ],
)
def test_wrong_parameters_are_told(parameters: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings(*parameters)


def test_the_command_line_of_nbdkit() -> None:
    given = parse_arguments(
        ["--config", "/etc/c.toml", "--pool", "p", "--image", "a", "--image", "b", "--socket", "/s"]
    )
    assert plugin_parameters(given) == ["config=/etc/c.toml", "pool=p", "image=a", "image=b"]
    line = command(given)
    assert line[line.index("--unix") + 1] == "/s" and "--foreground" in line
    assert Path(line[line.index("python") + 1]).is_file()


def test_the_environment_leads_nowhere_else() -> None:
    made = clean_environment({"PATH": "/venv/bin", "PYTHONPATH": "/x", "VIRTUAL_ENV": "/venv", "HOME": "/root"})
    assert made["HOME"] == "/root" and "/venv" not in made["PATH"]
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & made.keys()
    assert made["HYPHAE_SITE"] in sys.path


def test_a_socket_left_behind_is_removed_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "nbd.sock"
    free_socket(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(ConfigError, match="already"):
            free_socket(path)
    assert path.exists()
    free_socket(path)
    assert not path.exists()
    path.write_text("a file")
    with pytest.raises(ConfigError, match="no socket"):
        free_socket(path)
    assert os.path.getsize(path) == 6
