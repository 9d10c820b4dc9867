"""Where the server is and who we are to it, read from arguments and from govc's variables."""

import os
import traceback

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
        ("[fe80::1%25eth0]", "https://[fe80::1%25eth0]/sdk", "fe80::1%25eth0", 443),
    ],
)
def test_an_address_is_read_in_every_form_that_govc_takes(given, url, host, port):
    read = endpoint(given)
    assert (read.url, read.host, read.port) == (url, host, port)


def test_user_and_password_are_split_out_of_the_address_and_unquoted():
    read = VSphereEndpoint.model_validate({"url": "https://backup%40vsphere.local:p%3Ass%2Fword@vc:8443"})
    assert read.username == "backup@vsphere.local"
    assert read.password.get_secret_value() == "p:ss/word"
    assert read.address == "vc:8443"


# The expected values were worked out by hand, from left to right.
WITH_A_LOGIN = [
    ("administrator:Passw0rd#@vc.example.com", "administrator", "Passw0rd#", "https://vc.example.com/sdk"),
    (
        "backup@vsphere.local:2024#Sommer@vc.example.com",
        "backup@vsphere.local",
        "2024#Sommer",
        "https://vc.example.com/sdk",
    ),
    ("admin:pa?ss@vc.example.com", "admin", "pa?ss", "https://vc.example.com/sdk"),
    ("admin:pa/ss@vc.example.com:8443/sdk", "admin", "pa/ss", "https://vc.example.com:8443/sdk"),
    ("admin:2024/12@vc", "admin", "2024/12", "https://vc/sdk"),
    ("admin:pa/sdk@vc", "admin", "pa/sdk", "https://vc/sdk"),
    ("admin:p@ss/w:rd#?@vc", "admin", "p@ss/w:rd#?", "https://vc/sdk"),
    (
        "https://Administrator@vsphere.local:mypass@signin@vc",
        "Administrator@vsphere.local",
        "mypass@signin",
        "https://vc/sdk",
    ),
    ("admin:50%Ah@vc/sdk", "admin", "50%Ah", "https://vc/sdk"),
    ("admin:100%@vc", "admin", "100%", "https://vc/sdk"),
    ("admin:%FF%FE@vc", "admin", "%FF%FE", "https://vc/sdk"),
    ("admin:p%C3%A4ss%40@vc", "admin", "päss@", "https://vc/sdk"),
    ("a%40b:50%Ah@vc", "a@b", "50%Ah", "https://vc/sdk"),
    ("DOMAIN\\admin:p w@vc", "DOMAIN\\admin", "p w", "https://vc/sdk"),
    ("admin:://@vc", "admin", "://", "https://vc/sdk"),
    ("admin:a:b:c@[2001:db8::10]:8443", "admin", "a:b:c", "https://[2001:db8::10]:8443/sdk"),
    ("admin:[x]@vc", "admin", "[x]", "https://vc/sdk"),
    ("admin:pw@vc/sdk@v2", "admin", "pw", "https://vc/sdk@v2"),
    ("admin:pw@vc/sdk?x=a@b", "admin", "pw", "https://vc/sdk"),
]


@pytest.mark.parametrize(("given", "user", "password", "url"), WITH_A_LOGIN)
def test_a_login_in_the_address_may_hold_any_sign(given, user, password, url):
    read = VSphereEndpoint.from_environment({"GOVC_URL": given})
    assert (read.username, read.password.get_secret_value(), read.url) == (user, password, url)
    assert password not in f"{read!r} {read}" or password in url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("vc/some@path", "https://vc/some@path"),
        ("https://vc:8443/sdk@v2", "https://vc:8443/sdk@v2"),
        ("2001:db8::10", "https://[2001:db8::10]/sdk"),
        ("vc/sdk?a=b#c", "https://vc/sdk"),
    ],
)
def test_an_at_sign_in_a_path_makes_no_user(given, url):
    read = endpoint(given)
    assert (read.url, read.username) == (url, "backup")


@pytest.mark.parametrize(
    "given",
    ["u:SeCrEt#@", "u:SeCrEt/@vc:99999", "u:SeCrEt?@v c", "ftp://u:SeCrEt@vc", "u:SeCrEt@[::1", "u:SeCrEt@vc:port"],
)
def test_no_part_of_a_password_is_in_an_error(given):
    with pytest.raises(UsageError) as refused:
        VSphereEndpoint.from_environment({"GOVC_URL": given})
    assert "SeCrEt" not in "".join(traceback.format_exception(refused.value))


def test_a_user_given_by_itself_wins_over_the_one_in_the_address():
    assert endpoint("https://other:wrong@vc").username == "backup"


@pytest.mark.parametrize(
    "url", ["http://vc", "https://", "vc:70000", "vc:port", "ftp://vc", "::%1]:8443", "fe80::1%a b"]
)
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

    def test_govc_variables_may_be_paths_of_files(self, tmp_path):
        for name, text in (("user", "backup@vsphere.local\n"), ("word", " 2024#Sommer\r\n")):
            (tmp_path / name).write_text(text)
        paths = {"GOVC_USERNAME": str(tmp_path / "user"), "GOVC_PASSWORD": str(tmp_path / "word")}
        read = VSphereEndpoint.from_environment({"GOVC_URL": "vc", **paths})
        assert (read.username, read.password.get_secret_value()) == ("backup@vsphere.local", "2024#Sommer")

    @pytest.mark.parametrize("value", ["/", "no/such/file", "x" * 5000, "nul\0"])
    def test_what_is_no_file_is_the_value_itself(self, value):
        read = VSphereEndpoint.from_environment({"GOVC_URL": "vc", "GOVC_USERNAME": "u", "GOVC_PASSWORD": value})
        assert read.password.get_secret_value() == value

    def test_a_file_that_is_no_text_is_refused_without_its_bytes(self, tmp_path):
        (tmp_path / "word").write_bytes(b"SeCrEt\xff")
        with pytest.raises(UsageError, match="GOVC_PASSWORD") as refused:
            VSphereEndpoint.from_environment(
                {"GOVC_URL": "vc", "GOVC_USERNAME": "u", "GOVC_PASSWORD": str(tmp_path / "word")}
            )
        assert "SeCrEt" not in str(refused.value)

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
