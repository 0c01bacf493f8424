"""Finding and reading the client's configuration, and access without a master."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from store import direct
from store.client.config import ClientConfig, find_config, load_config, render_config
from store.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(home: Path, text: str | None = None) -> Path:
    """A configuration in `home`, with files beside it that exist."""
    for name in ("ca.crt", "client.crt", "client.key"):
        (home / name).write_text(name)
    path = home / "client.toml"
    addresses = (("10.0.0.1", 4010), ("::1", 4011))
    path.write_text(text or render_config(addresses, "ca.crt", "client.crt", "client.key", "main"))
    return path


def test_what_is_rendered_can_be_read(home: Path) -> None:
    config = load_config(written(home))
    assert config == ClientConfig(
        path=home / "client.toml",
        masters=(("10.0.0.1", 4010), ("::1", 4011)),
        ca=home / "ca.crt",
        cert=home / "client.crt",
        key=home / "client.key",
        pool="main",
    )


def test_places_in_order(home: Path) -> None:
    written(home)
    (home / "var").mkdir()
    shutil.copy(home / "client.toml", home / "var" / "client.toml")
    assert find_config(None, {}) == Path("var/client.toml")
    assert find_config(None, {"STORE_CONFIG": str(home / "client.toml")}) == home / "client.toml"
    other = home / "other.toml"
    other.write_text("")
    assert find_config(other, {"STORE_CONFIG": "nowhere"}) == other
    with pytest.raises(ConfigError, match="nowhere"):
        find_config(None, {"STORE_CONFIG": "nowhere"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("master = [", "not TOML"),
        ('master = "a:1"\nca = "ca.crt"\ncert = "client.crt"', "`key`"),
        ('master = []\nca = "ca.crt"\ncert = "client.crt"\nkey = "client.key"', "names no address"),
        ('master = "here"\nca = "ca.crt"\ncert = "client.crt"\nkey = "client.key"', "HOST:PORT"),
        ('master = "a:1"\nca = "ca.crt"\ncert = "client.crt"\nkey = "lost.key"', "cannot read `key`.*lost.key"),
        ('master = "a:1"\nca = "ca.crt"\ncert = "client.crt"\nkey = "client.key"\ncolour = 1', "colour"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(home: Path, text: str, says: str) -> None:
    path = written(home, text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def certificate(home: Path, name: str) -> None:
    line = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    line += ["-subj", f"/CN={name}", "-keyout", str(home / f"{name}.key"), "-out", str(home / f"{name}.crt")]
    subprocess.run(line, check=True, capture_output=True)


def test_a_key_of_another_certificate_is_told(home: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate(home, "one")
    certificate(home, "two")
    path = written(home, render_config((("a", 1),), "one.crt", "one.crt", "two.key", None))
    with pytest.raises(ConfigError, match=r"two.key is not the private key of .*one.crt"):
        load_config(path).tls()
    path.write_text(render_config((("a", 1),), "two.key", "one.crt", "one.key", None))
    with pytest.raises(ConfigError, match=r"two.key is not a CA certificate"):
        load_config(path).tls()
    path.write_text(render_config((("a", 1),), "one.crt", "one.crt", "one.key", None))
    load_config(path).tls()


# --- without a master ------------------------------------------------------------------------------------------------


def access(host: str = "127.0.0.1", port: int = 4148, process: int = 1) -> direct.Access:
    return direct.Access(direct.VERSION, (host, port), b"d" * 16, 1, b"s" * 32, b"map", process)


def test_what_a_daemon_publishes_is_found_until_it_ends(tmp_path: Path) -> None:
    first, second = access(), access(process=2)
    path = direct.publish(first, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert direct.discover(("localhost", 4148), tmp_path) == first
    direct.publish(second, tmp_path)
    direct.withdraw(first, tmp_path)  # the old process ends late: the new one's file stays
    assert direct.discover(("127.0.0.1", 4148), tmp_path) == second
    direct.withdraw(second, tmp_path)
    with pytest.raises(ConfigError, match="store file-store"):
        direct.discover(("127.0.0.1", 4148), tmp_path)


def test_a_wildcard_stands_for_every_address_and_another_address_does_not(tmp_path: Path) -> None:
    direct.publish(access("0.0.0.0"), tmp_path)
    assert direct.discover(("192.168.1.7", 4148), tmp_path).listen == ("0.0.0.0", 4148)
    direct.publish(access("10.0.0.1"), tmp_path)
    with pytest.raises(ConfigError, match=r"listens on 10.0.0.1"):
        direct.discover(("127.0.0.1", 4148), tmp_path)


def test_damaged_and_foreign_access_files_are_told(tmp_path: Path) -> None:
    path = direct.publish(access(), tmp_path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot use"):
        direct.discover(("127.0.0.1", 4148), tmp_path)
    direct.publish(direct.Access(99, ("127.0.0.1", 4148), b"", 1, b"", b"", 1), tmp_path)
    with pytest.raises(ConfigError, match="another version"):
        direct.discover(("127.0.0.1", 4148), tmp_path)


def test_the_runtime_directory_is_ours_alone(tmp_path: Path) -> None:
    made = direct.runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert made == tmp_path / "hyphae" and made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    with pytest.raises(ConfigError, match="only this user"):
        direct.runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)})
    made.rmdir()
    os.symlink("/tmp", made)
    with pytest.raises(ConfigError, match="only this user"):
        direct.runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)})
