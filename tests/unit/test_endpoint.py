"""Where the server is and who we are to it, read from arguments and from govc's variables."""

import os

import pytest
from pydantic import ValidationError

from hyperexport.errors import UsageError
from hyperexport.vsphere.endpoint import VSphereEndpoint

SHA256 = "ab" * 32
SHA1 = "cd" * 20


def endpoint(url="vc.example.com", **fields):
    return VSphereEndpoint(**{"url": url, "username": "backup", "password": "s3cret-word", **fields})


@pytest.mark.parametrize(
    ("given", "url", "host", "port"),
    [
        ("vc.example.com", "https://vc.example.com/sdk", "vc.example.com", 443),
        ("vc.example.com:443", "https://vc.example.com/sdk", "vc.example.com", 443),
        ("10.0.0.5:8443", "https://10.0.0.5:8443/sdk", "10.0.0.5", 8443),
        ("https://vc.example.com/", "https://vc.example.com/sdk", "vc.example.com", 443),
        ("https://vc.example.com:9443/other/sdk/", "https://vc.example.com:9443/other/sdk", "vc.example.com", 9443),
        ("[fe80::1]:8443", "https://[fe80::1]:8443/sdk", "fe80::1", 8443),
    ],
)
def test_an_address_is_read_in_every_form_that_govc_takes(given, url, host, port):
    read = endpoint(given)
    assert (read.url, read.host, read.port) == (url, host, port)


def test_user_and_password_are_split_out_of_the_address_and_unquoted():
    read = VSphereEndpoint(url="https://backup%40vsphere.local:p%3Ass%2Fword@vc:8443")
    assert read.username == "backup@vsphere.local"
    assert read.password.get_secret_value() == "p:ss/word"
    assert read.address == "vc:8443"


def test_a_user_given_by_itself_wins_over_the_one_in_the_address():
    assert endpoint("https://other:wrong@vc").username == "backup"


@pytest.mark.parametrize("url", ["http://vc", "https://", "vc:70000", "vc:port", "ftp://vc"])
def test_an_address_that_makes_no_sense_is_refused(url):
    with pytest.raises(ValidationError):
        endpoint(url)


def test_the_password_shows_nowhere():
    read = endpoint("https://u:in-the-address@vc", password="")
    assert "in-the-address" not in f"{read!r} {read} {read.url} {read.model_dump_json()}"
    with pytest.raises(ValidationError) as refused:
        endpoint("http://u:in-the-address@vc", password=None)
    assert "in-the-address" not in str(refused.value)


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError):
        endpoint(user="x")


@pytest.mark.parametrize("text", [SHA256, SHA256.upper(), ":".join(["AB"] * 32), "SHA256:" + SHA256])
def test_a_sha256_thumbprint_is_taken_in_every_spelling(text):
    assert endpoint(thumbprint=text).trust.thumbprint == SHA256


def test_a_sha1_thumbprint_is_refused_with_the_reason():
    with pytest.raises(ValidationError, match=r"SHA-1.*forged"):
        endpoint(thumbprint=SHA1)


@pytest.mark.parametrize("text", ["abc", "z" * 64, ""])
def test_what_is_no_thumbprint_is_refused(text):
    with pytest.raises(ValidationError):
        endpoint(thumbprint=text)


def test_several_ca_files_and_text_are_believed_together(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"<{name}>")
    read = endpoint(ca_file=f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}", ca_pem="<three>")
    assert read.trust.ca_pem == "<one>\n<two>\n<three>"
    assert read.trust.thumbprint is None
    assert not read.trust.insecure


def test_a_ca_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        _ = endpoint(ca_file=tmp_path / "nowhere").trust


class TestEnvironment:
    def test_govc_variables_are_read(self):
        read = VSphereEndpoint.from_environment(
            {"GOVC_URL": "vc:8443", "GOVC_USERNAME": "u", "GOVC_PASSWORD": "p", "GOVC_INSECURE": "1"}
        )
        assert (read.address, read.username, read.insecure) == ("vc:8443", "u", True)
        assert read.password.get_secret_value() == "p"

    def test_our_own_variables_come_first(self):
        read = VSphereEndpoint.from_environment(
            {
                "GOVC_URL": "https://u:p@theirs",
                "HYPEREXPORT_VSPHERE_URL": "ours",
                "HYPEREXPORT_VSPHERE_USERNAME": "me",
                "GOVC_USERNAME": "them",
                "GOVC_PASSWORD": "p",
                "HYPEREXPORT_VSPHERE_THUMBPRINT": SHA256,
                "HYPEREXPORT_VSPHERE_TIMEOUT": "5",
            }
        )
        assert (read.address, read.username, read.thumbprint, read.timeout) == ("ours", "me", SHA256, 5.0)

    def test_without_an_address_it_says_which_variable_to_set(self):
        with pytest.raises(UsageError, match="GOVC_URL"):
            VSphereEndpoint.from_environment({})

    def test_the_variable_that_makes_no_sense_is_named_and_its_value_is_not(self):
        with pytest.raises(UsageError, match="GOVC_INSECURE") as refused:
            VSphereEndpoint.from_environment(
                {"GOVC_URL": "vc", "GOVC_USERNAME": "u", "GOVC_PASSWORD": "hidden", "GOVC_INSECURE": "perhaps"}
            )
        assert "hidden" not in str(refused.value)

    def test_a_missing_user_is_named(self):
        with pytest.raises(UsageError, match="GOVC_USERNAME"):
            VSphereEndpoint.from_environment({"GOVC_URL": "vc", "GOVC_PASSWORD": "p"})

    def test_an_address_that_makes_no_sense_is_named_by_the_variable_that_holds_it(self):
        with pytest.raises(UsageError, match="GOVC_URL"):
            VSphereEndpoint.from_environment({"GOVC_URL": "http://vc", "GOVC_USERNAME": "u", "GOVC_PASSWORD": "p"})

    def test_what_govc_noted_of_a_host_is_believed_for_that_host_only(self, tmp_path):
        hosts = tmp_path / "known_hosts"
        hosts.write_text(f"other:443 {'EF' * 20}\nvc:8443 {':'.join(['CD'] * 20)}\n")
        variables = {"GOVC_USERNAME": "u", "GOVC_PASSWORD": "p", "GOVC_TLS_KNOWN_HOSTS": str(hosts)}
        assert VSphereEndpoint.from_environment({"GOVC_URL": "vc:8443", **variables}).trust.thumbprint == SHA1
        assert VSphereEndpoint.from_environment({"GOVC_URL": "vc", **variables}).trust.thumbprint is None

    def test_a_file_of_known_hosts_that_is_not_there_yet_is_fine(self, tmp_path):
        read = VSphereEndpoint.from_environment(
            {"GOVC_URL": "https://u:p@vc", "GOVC_TLS_KNOWN_HOSTS": str(tmp_path / "nowhere")}
        )
        assert read.trust.thumbprint is None
