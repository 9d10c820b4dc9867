"""Thumbprints in every spelling, and contexts that keep to what was asked."""

import ssl

import pytest

from hyperexport.model.tls import Trust, normalise_thumbprint, show_thumbprint

SHA256 = "0a" * 32


@pytest.mark.parametrize(
    "text", [SHA256, SHA256.upper(), ":".join(["0A"] * 32), f"SHA-256 {SHA256}", f"sha256={SHA256}", f" {SHA256}\n"]
)
def test_a_thumbprint_is_read_in_every_spelling(text):
    assert normalise_thumbprint(text) == SHA256


@pytest.mark.parametrize("text", ["", "0a", "zz" * 32, "0a" * 31, "0a" * 64])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match="thumbprint"):
        normalise_thumbprint(text)


def test_it_is_shown_as_vspheres_client_shows_it():
    assert show_thumbprint("0aff") == "0A:FF"


def test_with_nothing_given_the_systems_cas_are_asked():
    context = Trust().ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_text_without_a_certificate_vouches_for_nobody():
    with pytest.raises(ssl.SSLError):
        Trust(ca_pem="no certificate").ssl_context()
