"""What a certificate lacks is told in words, with the thumbprint to pin; nothing is sent to the server."""

import datetime as dt
import ipaddress
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hyperexport.model.tls import Trust, certificate_thumbprint, show_thumbprint
from hyperexport.results import Level
from hyperexport.simulator.certificates import Identity, make_authority
from hyperexport.steps.check_certificates import check_certificate

DAY = dt.timedelta(days=1)
AUTHORITY = make_authority()
TRUSTED = Trust(ca_pem=AUTHORITY.pem.decode())


def identity(
    *, since: float = -1, until: float = 90, address: str = "127.0.0.1", signed_by: Identity | None = AUTHORITY
) -> Identity:
    """A certificate for an address, valid from and until so many days from now; signed by itself if by nobody."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vcenter")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by.certificate.subject if signed_by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since * DAY)
        .not_valid_after(now + until * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
    )
    return Identity(key, builder.sign(signed_by.key if signed_by else key, hashes.SHA256()))


@contextmanager
def serving(shown: Identity) -> Iterator[tuple[int, list[bytes]]]:
    """A TLS server that shows a certificate and keeps what it is sent."""
    received: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        context = shown.server_context(Path(folder), "server")

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with suppress(OSError), context.wrap_socket(plain, server_side=True) as wrapped:
                        received.append(wrapped.recv(1000))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def look(port: int, trust: Trust):
    return check_certificate("certificate", "127.0.0.1", port, trust, fix="pin {thumbprint}", seconds=10)


def test_a_trusted_certificate_is_said_to_be_and_until_when():
    with serving(identity()) as (port, received):
        finding = look(port, TRUSTED)
    assert finding.level is Level.OK
    assert f"{dt.datetime.now(dt.UTC) + 90 * DAY:%Y-%m-%d}" in finding.words
    assert not any(received), "no byte was sent inside TLS"


def test_one_that_ends_soon_is_warned_of():
    with serving(identity(until=5)) as (port, _):
        assert look(port, TRUSTED).level is Level.WARN


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (identity(since=-9, until=-2), "it expired on"),
        (identity(since=2), "is this machine's clock right?"),
        (identity(address="192.0.2.7"), "it is for 192.0.2.7, not for 127.0.0.1"),
        (identity(signed_by=None), "it is signed by itself"),
        (identity(signed_by=make_authority()), "signature failure"),
    ],
    ids=["expired", "not yet valid", "another host's", "self-signed", "of a CA of the same name"],
)
def test_what_is_wrong_is_told_with_the_thumbprint_to_pin_and_the_pin_mends_it(shown, words):
    digits = certificate_thumbprint(shown.certificate.public_bytes(serialization.Encoding.DER))
    with serving(shown) as (port, _):
        finding = look(port, TRUSTED)
        pinned = look(port, Trust(thumbprint=digits))
    assert finding.level is Level.FAIL
    assert words in finding.words
    assert finding.fix == f"pin {show_thumbprint(digits)}"
    assert pinned.level is Level.OK


def test_everything_that_is_wrong_is_told_at_once():
    shown = identity(since=-9, until=-2, address="192.0.2.7", signed_by=None)
    with serving(shown) as (port, _):
        words = look(port, TRUSTED).words
    assert "expired" in words
    assert "by itself" in words


def test_another_certificate_than_the_pinned_one_fails():
    with serving(identity()) as (port, _):
        finding = look(port, Trust(thumbprint="ab" * 32))
    assert finding.level is Level.FAIL
    assert "not the pinned one" in finding.words


def test_to_verify_nothing_is_warned_of():
    with serving(identity(signed_by=None)) as (port, _):
        assert look(port, Trust(insecure=True)).level is Level.WARN


def test_nobody_there_is_told_with_the_port_to_open():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    finding = look(port, TRUSTED)
    assert finding.level is Level.FAIL
    assert f"127.0.0.1:{port} cannot be reached" in finding.words
    assert f"TCP port {port}" in (finding.fix or "")


def test_a_name_that_does_not_resolve_is_told():
    finding = check_certificate("host", "esx-01.invalid", 443, TRUSTED, fix="", seconds=10)
    assert finding.level is Level.FAIL
    assert "esx-01.invalid does not resolve" in finding.words


def test_a_server_without_tls_is_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            plain, _ = listener.accept()
            with plain:
                plain.recv(1000)
                plain.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        finding = look(listener.getsockname()[1], TRUSTED)
        thread.join()
    assert finding.level is Level.FAIL
    assert "does not speak TLS" in finding.words


def test_a_server_that_says_nothing_is_waited_for_only_so_long():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        finding = check_certificate("host", "127.0.0.1", listener.getsockname()[1], TRUSTED, fix="", seconds=0.2)
    assert finding.level is Level.FAIL
    assert "no answer in time" in finding.words


def test_the_certificates_here_are_what_they_claim():
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    with (
        serving(identity()) as (port, _),
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        assert wrapped.getpeercert()
