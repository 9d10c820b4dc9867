"""Whom we speak to: the server, the hosts that its leases point at, the object store. Each over real TLS.

What does not prove itself gets no byte of a request, so no password and no ticket; an answer that points elsewhere is
not followed.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import urllib3
from pydantic import SecretStr
from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import CertificateUntrusted, HyperExportError, PermissionMissing, ServerFault
from hyperexport.model.tls import Trust
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.transfer.source import open_source
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.lease_files import LeaseFile, lease_files
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.tags import _Api
from tests.engine.support import Certificate, Exchange, TlsServer, certificate, tls_server

PASSWORD = "pass-word"


@dataclass(frozen=True)
class Peer:
    """A server's certificate, what we were told to believe, and why that is not enough."""

    shown: Certificate
    believed: dict[str, object]
    why: str


def believing(own: Certificate) -> dict[str, object]:
    return {"ca_pem": own.pem}


OTHER_HOST = certificate("other host", host="127.0.0.2")
EXPIRED = certificate("expired", expired=True)
UNTRUSTED = {
    "nobody vouches for it": Peer(certificate(), {}, "self-signed"),
    "another authority vouches": Peer(certificate(), believing(certificate("another")), "self-signed"),
    "it is for another host": Peer(OTHER_HOST, believing(OTHER_HOST), "IP address mismatch"),
    "its time is over": Peer(EXPIRED, believing(EXPIRED), "expired"),
    "its thumbprint is another": Peer(certificate(), {"thumbprint": certificate("another").sha256}, "thumbprint"),
}


@pytest.fixture(params=UNTRUSTED)
def untrusted(request: pytest.FixtureRequest) -> Peer:
    return UNTRUSTED[request.param]


def endpoint(server: TlsServer, **fields: object) -> VSphereEndpoint:
    address = server.url.split("/")[2]
    return VSphereEndpoint.model_validate(
        {"url": address, "username": "u", "password": PASSWORD, "timeout": 10, **fields}
    )


def offered(address: str, at: VSphereEndpoint, **fields: object) -> LeaseFile:
    """What a lease of that server offers, when it names this address."""
    url = vim.HttpNfcLease.DeviceUrl(
        key="/vm-1/disk:0", url=address, disk=True, targetId="disk-0.vmdk", **{"sslThumbprint": "", **fields}
    )
    return lease_files([url], at, ())[0]


def download(file: LeaseFile) -> bytes:
    """As a step does it."""
    buffer = memoryview(bytearray(1000))
    with open_source(file.url, trust=file.trust, stop=StopSignal()) as source:
        return bytes(buffer[: source.readinto(buffer)])


def hello(exchange: Exchange) -> None:
    exchange.chunked(b"hello")


def asked(server: TlsServer) -> list[bytes]:
    """The requests that came: a connection on which not a byte was sent is none."""
    return [request for request in server.requests if request]


# -- certificates


def test_a_server_that_does_not_prove_itself_gets_no_request(untrusted: Peer) -> None:
    with tls_server(hello, untrusted.shown) as server:
        with pytest.raises(CertificateUntrusted, match=untrusted.why), connect(endpoint(server, **untrusted.believed)):
            pass
        assert asked(server) == []


def test_a_host_of_a_lease_that_does_not_prove_itself_gets_no_request(untrusted: Peer) -> None:
    with tls_server(hello) as vcenter, tls_server(hello, untrusted.shown) as host:
        at = endpoint(vcenter, ca_pem=untrusted.believed.get("ca_pem"))
        said = {"sslThumbprint": untrusted.believed.get("thumbprint", "")}
        with pytest.raises(CertificateUntrusted, match=untrusted.why):
            download(offered(host.url, at, **said))
        assert asked(host) == []


@pytest.mark.parametrize("peer", [peer for peer in UNTRUSTED.values() if "thumbprint" not in peer.believed])
def test_an_object_store_that_does_not_prove_itself_gets_no_request(
    peer: Peer, tmp_path_factory: pytest.TempPathFactory, short_s3_pauses: None
) -> None:
    authorities = tmp_path_factory.mktemp("s3") / "ca.pem"
    authorities.write_text(str(peer.believed.get("ca_pem", certificate("another").pem)))
    with tls_server(hello, peer.shown) as server:
        store = s3_store(server, ca_bundle=authorities)
        with pytest.raises(HyperExportError, match=r"(?i)certificate|SSL"):
            store.exports()
        assert asked(server) == []


def s3_store(server: TlsServer, **fields: object) -> S3Store:
    keys = {"access_key": SecretStr("key"), "secret_key": SecretStr("secret")}
    address = server.url.partition("/nfc")[0]
    return S3Store(
        S3Location.parse("s3://backups"),
        S3Settings.model_validate({"endpoint_url": address, **keys, **fields}),
        stop=StopSignal(),
    )


def test_a_hosts_thumbprint_counts_when_a_verified_server_says_it() -> None:
    with tls_server(hello) as vcenter, tls_server(hello, OTHER_HOST) as host:
        for verified in ({"ca_pem": certificate().pem}, {"thumbprint": certificate().sha256}):
            file = offered(host.url, endpoint(vcenter, **verified), sslThumbprint=OTHER_HOST.sha1_with_colons)
            assert download(file) == b"hello"
            whole = offered(host.url, endpoint(vcenter, **verified), sslCertificate=OTHER_HOST.pem)
            assert whole.trust == Trust(thumbprint=OTHER_HOST.sha256)
            assert download(whole) == b"hello"


def test_a_whole_certificate_outweighs_a_thumbprint_that_can_be_forged() -> None:
    with tls_server(hello) as vcenter, tls_server(hello, OTHER_HOST) as host:
        at = endpoint(vcenter, ca_pem=certificate().pem)
        said = {"sslCertificate": certificate("another").pem, "sslThumbprint": OTHER_HOST.sha1_with_colons}
        with pytest.raises(CertificateUntrusted):
            download(offered(host.url, at, **said))
        assert asked(host) == []


def test_what_an_unverified_server_says_of_a_host_is_neither_believed_nor_asked_for() -> None:
    """Who sits between us and the server writes the thumbprints, too: what they would prove is nothing."""
    with tls_server(hello) as vcenter, tls_server(hello, OTHER_HOST) as host:
        file = offered(host.url, endpoint(vcenter, insecure=True), sslThumbprint=certificate("another").sha256)
        assert file.trust == Trust(insecure=True)
        assert download(file) == b"hello", "--insecure was asked for, for laboratories"


# -- answers that point elsewhere


REDIRECTS = [301, 302, 303, 307, 308]


def pointing_to(address: str, status: int) -> Callable[[Exchange], None]:
    def script(exchange: Exchange) -> None:
        exchange.head(f"{status} Moved", f"Location: {address}", "Content-Length: 0")

    return script


@pytest.mark.parametrize("status", REDIRECTS)
def test_no_download_follows_to_another_port(status: int) -> None:
    with tls_server(hello) as elsewhere, tls_server(pointing_to(elsewhere.url, status)) as server:
        with pytest.raises(ServerFault, match=str(status)):
            download(offered(server.url, endpoint(server, ca_pem=certificate().pem)))
        assert (len(asked(server)), asked(elsewhere)) == (1, [])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_download_follows_to_another_host_or_out_of_tls(scheme: str) -> None:
    with socket.create_server(("127.0.0.2", 0)) as elsewhere:
        elsewhere.settimeout(0)
        address = f"{scheme}://127.0.0.2:{elsewhere.getsockname()[1]}/disk-0.vmdk"
        with tls_server(pointing_to(address, 302)) as server, pytest.raises(ServerFault):
            download(offered(server.url, endpoint(server, ca_pem=certificate().pem)))
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_no_question_to_the_server_follows() -> None:
    with tls_server(hello) as elsewhere, tls_server(pointing_to(elsewhere.url, 302)) as server:
        with pytest.raises(HyperExportError, match="302"), connect(endpoint(server, ca_pem=certificate().pem)):
            pass
        assert (len(asked(server)), asked(elsewhere)) == (1, [])


@pytest.mark.parametrize("status", REDIRECTS)
def test_no_login_to_the_rest_api_follows(status: int) -> None:
    with tls_server(hello) as elsewhere, tls_server(pointing_to(elsewhere.url, status)) as server:
        at = endpoint(server, ca_pem=certificate().pem)
        pool = urllib3.PoolManager(ssl_context=at.trust.ssl_context(), retries=False)
        with pool, pytest.raises(HyperExportError, match=str(status)):
            _Api(pool, at, modern=True).log_in()
        assert (len(asked(server)), asked(elsewhere)) == (1, [])
        assert b"Authorization: Basic" in server.requests[0].replace(b"authorization", b"Authorization")


@pytest.mark.parametrize("status", REDIRECTS)
def test_no_request_to_an_object_store_follows(
    status: int, tmp_path_factory: pytest.TempPathFactory, short_s3_pauses: None
) -> None:
    authorities = tmp_path_factory.mktemp("s3") / "ca.pem"
    authorities.write_text(certificate().pem)

    def script(exchange: Exchange, elsewhere: TlsServer) -> None:
        place = elsewhere.url.split("/")[2]
        body = f"<Error><Code>PermanentRedirect</Code><Endpoint>{place}</Endpoint></Error>"
        headers = (f"Location: {elsewhere.url}", "x-amz-bucket-region: 127.0.0.1", f"Content-Length: {len(body)}")
        exchange.head(f"{status} Moved", *headers)
        exchange.send(body.encode())

    with tls_server(hello) as elsewhere, tls_server(partial(script, elsewhere=elsewhere)) as server:
        with pytest.raises(HyperExportError):
            s3_store(server, ca_bundle=authorities).exports()
        assert server.requests
        assert asked(elsewhere) == []


# -- who asks for a login


def test_a_host_that_asks_for_a_login_gets_none() -> None:
    def script(exchange: Exchange) -> None:
        exchange.head("401 Unauthorized", 'WWW-Authenticate: Basic realm="host"', "Content-Length: 0")

    with tls_server(script) as host:
        with pytest.raises(PermissionMissing, match="401"):
            download(offered(host.url, endpoint(host, ca_pem=certificate().pem)))
        (request,) = host.requests
    assert b"cookie" not in request.lower()
    assert b"authorization" not in request.lower()
    assert PASSWORD.encode() not in request


# -- addresses that are none


@pytest.mark.parametrize(
    "address",
    [
        "http://esx/nfc/t/disk-0.vmdk", "ftp://esx/disk", "file:///etc/passwd", "//esx/disk", "disk-0.vmdk", "",
        "https://", "https:///disk", "https://[::1/disk", "https://esx:port/disk", "https://esx:99999/disk",
        "https://e\x00x/disk", "https://esx/\r\nCookie: x", "https://" + "a" * 4000 + "/disk", "https://é\u202e.x/disk",
        "javascript:alert(1)",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_in_words(address: str) -> None:
    with tls_server(hello) as server, pytest.raises(HyperExportError) as caught:
        download(offered(address, endpoint(server, insecure=True)))
    assert "\r" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("thumbprint", ["xyz", "AB", "ab" * 21, "\u202e" * 40])
def test_a_thumbprint_that_is_none_pins_nothing_and_is_an_error(thumbprint: str) -> None:
    with tls_server(hello) as server, pytest.raises(HyperExportError, match="thumbprint"):
        offered("https://esx/disk", endpoint(server), sslThumbprint=thumbprint)
    with tls_server(hello) as server, pytest.raises(HyperExportError, match="thumbprint"):
        offered("https://esx/disk", endpoint(server), sslCertificate=thumbprint)
