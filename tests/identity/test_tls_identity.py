"""The identity that a listener shows."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import gevent
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgesync.identity.certificate import KeyType, fingerprint, make_self_signed
from edgesync.tls_identity import TLSIdentity


def test_anonymous_identity_lasts_a_year_and_has_no_label() -> None:
    identity = TLSIdentity.anonymous()
    assert identity.label is None
    assert len(identity.certs) == 1
    remaining = identity.expiration - datetime.now(UTC)
    assert timedelta(days=364) < remaining < timedelta(days=365)
    assert identity.fingerprint == fingerprint(identity.certs[0])


def test_making_a_key_does_not_hold_the_hub() -> None:
    longest = 0.0

    def watch() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            gevent.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    watcher = gevent.spawn(watch)
    TLSIdentity.anonymous()
    watcher.kill()
    assert 0 < longest < 0.05


def test_identity_from_pem_keeps_chain_and_key() -> None:
    certificate, key = make_self_signed(
        "box", valid_for=timedelta(days=1), now=datetime.now(UTC), key_type=KeyType.P_256
    )
    identity = TLSIdentity.from_pem(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )
    assert identity.certs == (certificate,)
    identity.server_tls()


def test_private_key_is_not_shown() -> None:
    assert "private_key" not in repr(TLSIdentity.anonymous())
