"""Logging in and out: over real TLS, to both servers, to servers that are none, and past a session that ended."""

import http.server
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from pyVmomi import vim

from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.model.tls import certificate_thumbprint
from hyperexport.simulator import Fault, FaultKind
from hyperexport.vsphere.collector import properties, retrieve, watch
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import connect
from tests.engine.support import certificate


def changed(endpoint, **fields):
    return VSphereEndpoint(**{**endpoint.model_dump(), "password": endpoint.password, **fields})


def refused(endpoint):
    with pytest.raises(errors.HyperExportError) as caught, connect(endpoint):
        pass
    assert endpoint.password.get_secret_value() not in str(caught.value)
    return caught.value


def session_keys(observer):
    listed = properties(observer, observer.content.sessionManager, ["sessionList"], doing="observing")
    return {session.key for session in listed["sessionList"]}


def shown_thumbprint(endpoint):
    return certificate_thumbprint(ssl.get_server_certificate((endpoint.host, endpoint.port)))


def test_a_session_knows_its_server(peer):
    with connect(peer.endpoint) as session:
        assert session.is_vcenter
        assert session.instance_uuid
        assert session.api_version.split(".")[0] in {"7", "8", "9"}
        assert session.user == peer.endpoint.username
        assert session.address == f"{peer.endpoint.host}:{peer.endpoint.port}"


def test_a_certificate_is_verified_by_its_ca_and_refused_without(peer):
    error = refused(changed(peer.endpoint, ca_file=None))
    assert isinstance(error, errors.CertificateUntrusted)
    assert shown_thumbprint(peer.endpoint) in str(error).replace(":", "").lower()


def test_a_pinned_thumbprint_stands_in_for_a_ca(peer):
    thumbprint = shown_thumbprint(peer.endpoint)
    with connect(changed(peer.endpoint, ca_file=None, thumbprint=thumbprint)) as session:
        assert session.user


def test_a_wrong_thumbprint_is_refused_before_the_password_is_sent(peer):
    error = refused(changed(peer.endpoint, thumbprint="ab" * 32))
    assert isinstance(error, errors.CertificateUntrusted)
    assert "pinned" in str(error)


def test_an_unverified_certificate_must_be_asked_for_and_is_warned_of(peer, caplog):
    with connect(changed(peer.endpoint, ca_file=None, insecure=True)):
        pass
    assert "NOT verified" in caplog.text


def test_a_ca_file_without_a_certificate_is_a_usage_error(peer, tmp_path):
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    error = refused(changed(peer.endpoint, ca_file=tmp_path / "ca.pem"))
    assert isinstance(error, errors.UsageError)


def test_a_wrong_password_is_refused_in_words(peer):
    error = refused(changed(peer.endpoint, password="not the word"))
    assert isinstance(error, errors.LoginRefused)
    assert peer.endpoint.username in str(error)


@pytest.mark.parametrize("leave", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_the_server_keeps_no_session_however_the_block_ends(peer, leave):
    keys = []
    with connect(peer.endpoint) as observer:
        try:
            with connect(peer.endpoint) as session:
                keys.append(session.key)
                assert session.key in session_keys(observer)
                if leave:
                    raise leave
        except (ValueError, KeyboardInterrupt, SystemExit):
            pass
        (key,) = keys
        assert key not in session_keys(observer)
        assert observer.key in session_keys(observer)


def test_a_session_that_the_server_ended_is_renewed_and_the_call_repeated(peer):
    with connect(peer.endpoint) as observer, connect(peer.endpoint) as session:
        first = session.key
        observer.content.sessionManager.TerminateSession([first])
        assert list(retrieve(session, {vim.VirtualMachine: ["name"]}, doing="listing"))
        assert first not in session_keys(observer)
        assert session.key in session_keys(observer)


def test_many_threads_share_a_session_and_renew_it_once(peer):
    with connect(peer.endpoint) as observer, connect(peer.endpoint) as session:
        observer.content.sessionManager.TerminateSession([session.key])

        def read():
            return list(retrieve(session, {vim.Datacenter: ["name"]}, doing="listing"))

        with ThreadPoolExecutor(6) as pool:
            assert all(future.result() for future in [pool.submit(read) for _ in range(18)])
        assert session.key in session_keys(observer)


def test_properties_of_more_objects_than_fit_one_page_all_come(peer, monkeypatch):
    monkeypatch.setattr("hyperexport.vsphere.collector.PAGE", 7)
    with connect(peer.endpoint) as session:
        names = [found["name"] for _, found in retrieve(session, {vim.VirtualMachine: ["name"]}, doing="listing")]
    assert len(names) == len(set(names)) >= 40


def test_watching_ends_when_the_run_is_stopped(peer):
    stop = StopSignal()
    with connect(peer.endpoint) as session:
        seen = watch(session, session.content.rootFolder, ["name"], doing="watching", stop=stop)
        assert next(seen)["name"]
        stop.set()
        with pytest.raises(errors.Interrupted):
            list(seen)


def test_watching_survives_the_end_of_the_session(peer):
    with connect(peer.endpoint) as observer, connect(peer.endpoint) as session:
        seen = watch(session, session.content.rootFolder, ["name"], doing="watching")
        first = next(seen)
        observer.content.sessionManager.TerminateSession([session.key])
        assert next(seen) == first


def test_watching_survives_the_end_of_the_session_while_the_server_holds_the_question(simulated, faults):
    """vSphere cancels that request; only the next one fails as not authenticated."""
    held = Fault(FaultKind.METHOD_FAULT, method="WaitForUpdatesEx", fault="RequestCanceled", times=2)
    with connect(simulated.endpoint) as session:
        seen = watch(session, session.content.rootFolder, ["name"], doing="watching")
        first = next(seen)
        faults.add(held)
        assert next(seen) == first
    assert faults.fired == [held, held]


def test_nobody_at_the_address_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = refused(VSphereEndpoint(url=f"127.0.0.1:{port}", username="u", password="pass-word"))
    assert isinstance(error, errors.ServerUnreachable)
    assert f"127.0.0.1:{port}" in str(error)


def test_a_name_that_does_not_resolve_is_unreachable():
    error = refused(VSphereEndpoint(url="vcenter.invalid", username="u", password="pass-word"))
    assert isinstance(error, errors.ServerUnreachable)


def test_a_server_that_never_answers_times_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        error = refused(VSphereEndpoint(url=address, username="u", password="pass-word", timeout=0.3))
    assert isinstance(error, errors.ServerUnreachable)
    assert "in time" in str(error)


class Website(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        body = b"<html><body>Welcome</body></html>"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def website(status, *, tls=True):
    handler = type("Answer", (Website,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = certificate().server_context().wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_port}"
            yield VSphereEndpoint(url=address, username="u", password="pass-word", insecure=True, timeout=5)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [200, 404, 403])
def test_a_website_is_not_vsphere(status):
    with website(status) as endpoint:
        assert isinstance(refused(endpoint), errors.NotVSphere)


def test_a_server_out_of_sessions_is_busy():
    with website(503) as endpoint:
        error = refused(endpoint)
    assert isinstance(error, errors.ServerBusy)
    assert error.transient


def test_a_port_without_tls_is_not_vsphere():
    with website(200, tls=False) as endpoint:
        assert isinstance(refused(endpoint), errors.NotVSphere)
