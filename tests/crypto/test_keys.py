"""Key derivation: vectors computed from RFC 5869 with plain HMAC, and the ring."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from store.crypto.keys import KeyRing, Secrets, derive_session_key, derive_ticket_key


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """One block of RFC 5869 is enough for 32 bytes."""
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:size]


def test_vectors() -> None:
    secret = bytes(range(32))
    ticket_key = derive_ticket_key(secret, b"ticket")
    assert ticket_key.hex() == "c49cc8b89c0ca6e1be82bd85ba46fcf746d6484f57c9a95c9f8ab9efce920a68"
    assert derive_session_key(secret, 0x0123456789ABCDEF).hex() == "e7dcb4aeba0b63a7a9a4cd9390b5ea50"


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=640), st.integers(0, 2**64 - 1))
def test_derivation_is_rfc_5869(secret: bytes, ticket: bytes, session: int) -> None:
    key = derive_ticket_key(secret, ticket)
    assert key == hkdf(secret, b"", b"hyphae ticket 1" + ticket, 32)
    assert derive_session_key(key, session) == hkdf(key, session.to_bytes(8, "little"), b"hyphae session 1", 16)


def test_the_ring_forgets_and_never_goes_back() -> None:
    ring = KeyRing()
    assert ring.current == 0 and ring.secret(1) is None
    ring.install(Secrets(2, {1: b"a", 2: b"b", 3: b"c"}))
    assert (ring.current, ring.secret(1), ring.secret(3), ring.secret(4)) == (2, b"a", b"c", None)
    ring.install(Secrets(3, {2: b"b", 3: b"c", 4: b"d"}))
    assert ring.secret(1) is None and ring.secret(4) == b"d"
    ring.install(Secrets(2, {1: b"a", 2: b"b", 3: b"c"}))
    assert ring.current == 3 and ring.secret(1) is None
    assert KeyRing(ring.secrets()).secret(4) == b"d"
