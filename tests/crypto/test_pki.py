"""The CA, roles in certificates, TLS contexts, join tickets: good ones work, others are one clear line."""

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.crypto import pki, tls
from store.crypto.identity import DAEMON, MASTER, Role, client_role, device_of, device_role, parse_role, role_of
from store.crypto.join_ticket import JoinTicket, read_join_ticket, write_join_ticket
from store.errors import ConfigError
from store.ids import DeviceId

NOW = datetime.datetime.now(datetime.UTC)
DEVICE = DeviceId(bytes(range(16)))


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return pki.create_authority(bytes(range(16)), NOW)


@pytest.fixture(scope="module")
def credentials(authority: pki.Authority) -> tls.Credentials:
    key = pki.create_key()
    return tls.Credentials(pki.issue(authority, DAEMON, pki.create_request(key), NOW, 9), key, authority.certificate)


def openssl(*arguments: str | Path) -> str:
    """What the tool prints; the test fails if it is not content."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_roles() -> None:
    for role in (MASTER, DAEMON, device_role(DEVICE), client_role("gateway-1")):
        assert parse_role(role.uri) == role
        assert role_of({"subjectAltName": (("DNS", "x"), ("URI", role.uri))}) == role
    for odd in ("urn:hyphae:", "urn:hyphae:master:x", "urn:hyphae:device:12", "urn:hyphae:client:", "urn:other:master"):
        assert parse_role(odd) is None
    assert role_of({}) is None
    assert device_of({"subjectAltName": (("URI", device_role(DEVICE).uri),)}) == DEVICE
    assert device_of({"subjectAltName": (("URI", DAEMON.uri),)}) is None
    assert DAEMON.may_serve(DEVICE) and device_role(DEVICE).may_serve(DEVICE)
    assert not device_role(DeviceId(bytes(16))).may_serve(DEVICE) and not client_role("x").may_serve(DEVICE)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 64, "a:b", "ä", "a\n"])
def test_client_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="no client name"):
        client_role(name)


def test_the_cluster_is_in_the_ca(authority: pki.Authority) -> None:
    assert tls.cluster_of(authority.certificate) == bytes(range(16))
    other = pki.create_authority(b"x" * 15, NOW)  # a name that holds no id of 16 bytes, as another tool's would
    assert tls.cluster_of(other.certificate) == tls.fingerprint(other.certificate)[:16]


def test_a_certificate_is_what_other_tools_expect(authority: pki.Authority, tmp_path: Path) -> None:
    key = pki.create_key()
    made = pki.issue(authority, client_role("anna"), pki.create_request(key), NOW, 9, ("store.example", "10.0.0.1"))
    (tmp_path / "ca.crt").write_text(authority.certificate)
    (tmp_path / "c.crt").write_text(made)
    openssl("verify", "-x509_strict", "-CAfile", tmp_path / "ca.crt", tmp_path / "c.crt")
    shown = openssl("x509", "-in", tmp_path / "c.crt", "-noout", "-ext", "subjectAltName")
    assert "URI:urn:hyphae:client:anna" in shown and "DNS:store.example" in shown and "IP Address:10.0.0.1" in shown


def test_bad_requests_and_keys(authority: pki.Authority) -> None:
    with pytest.raises(ConfigError, match="no certificate signing request"):
        pki.issue(authority, DAEMON, "nonsense", NOW, 9)
    other = pki.create_authority(b"o" * 16, NOW)
    mixed = pki.Authority(authority.certificate, other.private_key)
    with pytest.raises(ConfigError, match="does not belong"):
        pki.issue(mixed, DAEMON, pki.create_request(pki.create_key()), NOW, 9)


def test_contexts(credentials: tls.Credentials) -> None:
    tls.server_context(credentials)
    tls.client_context(credentials)
    tls.join_client_context(credentials.authority)
    strange = tls.Credentials(credentials.certificate, pki.create_key(), credentials.authority)
    with pytest.raises(ConfigError, match="cannot be used together"):
        tls.client_context(strange)
    with pytest.raises(ConfigError, match="CA certificate cannot be used"):
        tls.client_context(tls.Credentials(credentials.certificate, credentials.private_key, "rubbish"))


def test_reading_files(credentials: tls.Credentials, tmp_path: Path) -> None:
    paths = [tmp_path / "c.crt", tmp_path / "c.key", tmp_path / "ca.crt"]
    texts = (credentials.certificate, credentials.private_key, credentials.authority)
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    assert tls.Credentials.read(*paths) == credentials
    with pytest.raises(ConfigError, match=r"c\.crt holds no private key"):
        tls.Credentials.read(paths[0], paths[0], paths[2])
    with pytest.raises(ConfigError, match=r"cannot read .*missing: No such file"):
        tls.Credentials.read(tmp_path / "missing", paths[1], paths[2])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not PEM text"):
        tls.Credentials.read(tmp_path / "binary", paths[1], paths[2])


def test_an_encrypted_key_asks_nobody(credentials: tls.Credentials, tmp_path: Path) -> None:
    (tmp_path / "c.key").write_text(credentials.private_key)
    openssl("pkcs8", "-topk8", "-in", tmp_path / "c.key", "-out", tmp_path / "e.key", "-passout", "pass:secret")
    locked = tls.Credentials(credentials.certificate, (tmp_path / "e.key").read_text(), credentials.authority)
    with pytest.raises(ConfigError, match="encrypted"):
        tls.client_context(locked)


JOIN = JoinTicket((("10.0.0.5", 4000), ("::1", 4010)), bytes(range(32)), b"s" * 16, 1_800_000_000)


def test_join_tickets_are_one_word() -> None:
    word = write_join_ticket(JOIN)
    assert word.startswith("join1.") and word.isprintable() and " " not in word and len(word) < 160
    assert read_join_ticket(word) == JOIN
    assert read_join_ticket(f"  {word[:30]}\n  {word[30:]} ") == JOIN  # as a mail program may wrap it


@given(st.data())
def test_a_copying_mistake_is_found(data: st.DataObject) -> None:
    word = write_join_ticket(JOIN)
    place = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019-_."))
    changed = word[:place] + letter + word[place + 1 :]
    cut = word[: data.draw(st.integers(0, len(word) - 1))]
    for damaged in (changed, cut):
        if damaged != word and not _same_bits(damaged, word):
            with pytest.raises(ConfigError, match="join ticket"):
                read_join_ticket(damaged)


def _same_bits(one: str, other: str) -> bool:
    """The last character of base64 may carry bits that mean nothing."""
    return len(one) == len(other) and one[:-1] == other[:-1]


def test_daemons_do_not_load_x509() -> None:
    """16 MiB that nobody but those who issue and join should pay."""
    program = (
        "import sys, store.crypto.tls, store.crypto.keys, store.crypto.ticket, store.control.link,"
        " store.control.listener; sys.exit('cryptography.x509' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_role_shape() -> None:
    assert Role("client", "a").uri == "urn:hyphae:client:a" and MASTER.uri == "urn:hyphae:master"
