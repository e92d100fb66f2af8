"""Certificates of clients, judged inside the handshake: what is shown, who hears what."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from edgesync.identity.certificate import Certificate, Identity
from edgesync.identity.trust import TrustAnchors
from edgesync.net.acceptor import Acceptor
from edgesync.net.handshake import Peer
from edgesync.net.tls import ClientRefusal
from edgesync.net.websocket import PeerSocket
from edgesync.tls_identity import TLSIdentity
from tests.net.conftest import StartServer
from tests.net.test_tls import in_thread
from tests.net.tls_clients import (
    ACCEPTED,
    ANOTHER_VERSION,
    NO_CERTIFICATE,
    NOW,
    TLS_1_2,
    TLS_1_3,
    UNKNOWN_CA,
    attempt,
    authorities,
    client_context,
    made,
    pem_of,
)

ALONE: Final = made("alone")
LEAF: Final = made("leaf", authorities(2))
StartJudging = Callable[..., Acceptor]
WriteCertificate = Callable[..., Path]


class Judge:
    """Judges clients, and notes which chains it was shown."""

    def __init__(self, refusal: str | None = None) -> None:
        self._refusal = refusal
        self.shown: list[tuple[Certificate, ...]] = []

    def __call__(self, chain: Sequence[Certificate], now: datetime) -> str | None:
        assert abs(now - datetime.now(UTC)) < timedelta(seconds=60)
        self.shown.append(tuple(chain))
        return self._refusal


@pytest.fixture
def start_judging(start_server: StartServer, identity: TLSIdentity) -> StartJudging:
    """Return a way to start servers that ask a judge about their clients."""

    def start(judge: ClientRefusal, **changes: object) -> Acceptor:
        return start_server(tls=identity.server_tls(judge), **changes)

    return start


@pytest.fixture
def written(tmp_path: Path) -> WriteCertificate:
    """Return a way to give a client its certificate."""

    def write(identity: Identity, certs: Sequence[Certificate] | None = None) -> Path:
        file = tmp_path / "client.pem"
        file.write_bytes(pem_of(identity, certs))
        return file

    return write


def knock(port: int, certificate: Path | None) -> str:
    """Return what becomes of a client."""
    return in_thread(lambda: attempt(port, client_context(TLS_1_2, certificate)))


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_judge_is_asked_once_with_the_whole_chain(
    start_judging: StartJudging, written: WriteCertificate, length: int, is_whole: bool
) -> None:
    judge = Judge()
    count = length - is_whole  # without the root it has as many authorities, one of them unsent
    client = made("leaf", authorities(count)) if count else ALONE
    sent = client.certs[:length]
    assert knock(start_judging(judge).port, written(client, sent)) == ACCEPTED
    assert judge.shown == [sent]


@pytest.mark.parametrize("client", [ALONE, LEAF, made("x", authorities(9))])
def test_refused_client_hears_unknown_ca_inside_its_handshake(
    start_judging: StartJudging, written: WriteCertificate, client: Identity
) -> None:
    judge = Judge("no")
    assert knock(start_judging(judge).port, written(client)) == UNKNOWN_CA
    assert len(judge.shown) == 1


def test_reason_of_a_refusal_is_logged_with_the_peer(
    start_judging: StartJudging, written: WriteCertificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    knock(start_judging(Judge("nobody knows it")).port, written(ALONE))
    gevent.sleep(0.05)
    (line,) = caplog.messages
    assert line.startswith("127.0.0.1:")
    assert line.endswith("the client was refused: nobody knows it")


def test_client_without_certificate_hears_handshake_failure(start_judging: StartJudging) -> None:
    judge = Judge()
    assert knock(start_judging(judge).port, None) == NO_CERTIFICATE
    assert judge.shown == []


def test_tls_1_3_is_not_spoken_with_clients_that_need_a_certificate(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    """Their refusal would reach them too late to be one."""
    port, file = start_judging(Judge()).port, written(ALONE)
    assert in_thread(lambda: attempt(port, client_context(TLS_1_3, file))) == ANOTHER_VERSION


def test_longer_chain_is_refused_unjudged(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    judge = Judge()
    assert knock(start_judging(judge).port, written(made("x", authorities(10)))) == UNKNOWN_CA
    assert judge.shown == []


def test_others_certificates_beside_the_chain_are_not_shown(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    judge = Judge()
    sent = (*LEAF.certs[:2], *ALONE.certs)
    assert knock(start_judging(judge).port, written(LEAF, sent)) == ACCEPTED
    assert judge.shown == [LEAF.certs[:2]]


def test_judge_that_fails_refuses(
    start_judging: StartJudging, written: WriteCertificate, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_chain: Sequence[Certificate], _now: datetime) -> str | None:
        raise LookupError("no list")

    assert knock(start_judging(fail).port, written(ALONE)) == UNKNOWN_CA
    assert "no list" in caplog.text


def test_every_connection_is_judged_even_one_that_offers_its_session(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    judge = Judge()
    port = start_judging(judge).port
    context = client_context(TLS_1_2, written(ALONE))

    def talk() -> bool | None:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10)) as first:
            session = first.session
        second = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(second, session=session) as again:
            return again.session_reused

    assert in_thread(talk) is False
    assert len(judge.shown) == 2


def test_judges_of_two_servers_are_not_mixed_up(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    yes, no = start_judging(Judge()).port, start_judging(Judge("no")).port
    file = written(ALONE)
    assert [knock(port, file) for port in (yes, no, yes)] == [ACCEPTED, UNKNOWN_CA, ACCEPTED]


def test_session_is_told_whose_certificate_it_is(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    peers: list[Peer] = []

    def note(_websocket: PeerSocket, peer: Peer) -> None:
        peers.append(peer)

    knock(start_judging(Judge(), serve=note).port, written(LEAF))
    assert peers[0].certificate_subject == "CN=leaf"
    assert peers[0].user is None


# --- strange certificates -------------------------------------------------------------


def signed(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    name: str = "CN=strange",
    issuer: Identity | None = None,
    extension: x509.ExtensionType | None = None,
) -> Identity:
    """Return an identity that `make_identity` does not make."""
    subject = x509.Name.from_rfc4514_string(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certs[0].subject if issuer else subject)
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=2))
        .not_valid_after(NOW + timedelta(days=2))
        .public_key(key.public_key())
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    certificate = builder.sign(issuer.private_key if issuer else key, hashes.SHA256())
    return Identity((certificate, *(issuer.certs if issuer else ())), key)


PROXY: Final = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"),
    bytes.fromhex("300c300a06082b06010505071501"),
)


VERSION_3: Final = bytes.fromhex("a003020102")
VERSION_19: Final = bytes.fromhex("a003020112")


def test_proxy_certificate_does_not_slip_through(
    start_judging: StartJudging, written: WriteCertificate
) -> None:
    """OpenSSL looks for no revocation list of these, so it must ask for another reason."""
    key = ec.generate_private_key(ec.SECP256R1())
    proxy = signed(key, "CN=proxy,CN=alone", ALONE, PROXY)
    judge = Judge("no")
    assert knock(start_judging(judge).port, written(proxy)) != ACCEPTED
    assert judge.shown == [proxy.certs]
    judge = Judge()
    assert knock(start_judging(judge).port, written(proxy)) == ACCEPTED
    refusal = TrustAnchors(ALONE.certs).refusal
    assert knock(start_judging(refusal).port, written(proxy)) != ACCEPTED


@pytest.mark.parametrize("bits", [1024, 4104])
def test_client_with_a_bad_key_is_refused_by_a_list(
    start_judging: StartJudging, written: WriteCertificate, bits: int
) -> None:
    bad = signed(rsa.generate_private_key(public_exponent=65537, key_size=bits))
    port = start_judging(TrustAnchors(bad.certs).refusal).port
    assert knock(port, written(bad)) == UNKNOWN_CA


def test_certificate_of_an_impossible_version_is_refused_without_noise(
    start_judging: StartJudging, written: WriteCertificate, caplog: pytest.LogCaptureFixture
) -> None:
    der = ALONE.certs[0].public_bytes(Encoding.DER)
    assert der.count(VERSION_3) == 1
    path = written(ALONE)
    strange = ssl.DER_cert_to_PEM_cert(der.replace(VERSION_3, VERSION_19))
    path.write_text(path.read_text().replace(ssl.DER_cert_to_PEM_cert(der), strange))
    with caplog.at_level(logging.INFO):
        assert knock(start_judging(Judge()).port, path) == UNKNOWN_CA
    assert [record for record in caplog.records if record.exc_info] == []
