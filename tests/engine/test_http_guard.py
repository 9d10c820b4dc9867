"""What is refused before an application sees it, over real connections."""

import http.client
import json
import socket
import threading
from collections.abc import Generator
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse

from hyperexport.deployments import http_guard
from hyperexport.deployments.http_guard import BoundedBody, BoundedHeaders, SameOrigin, Token

LARGEST = 4096
EVIL = "http://evil.example"


class Server:
    def __init__(self) -> None:
        self.port = 0
        self.seen: list[bytes] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        self.seen.append(body)
        await JSONResponse({"bytes": len(body)})(scope, receive, send)

    def ask(self, method: str, path: str = "/jobs", body: bytes | None = None, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            given = {"Host": f"127.0.0.1:{self.port}", "Authorization": "Bearer right"}
            given |= {name.replace("_", "-"): value for name, value in headers.items()}
            for name, value in given.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            with connection.getresponse() as answer:
                answer.read()
                return answer.status
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def is_closed(client: socket.socket) -> bool:
    """Wait for the server's word, and tell whether it is the end."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Generator[Server]:
    running = Server()
    seconds = getattr(request, "param", 30.0)
    guarded = BoundedBody(running.app, largest=LARGEST, seconds=seconds)
    guarded = SameOrigin(Token(guarded, token="right", open_paths=frozenset({"/health"})), loopback_only=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running.port = listener.getsockname()[1]
        settings = uvicorn.Config(guarded, http=BoundedHeaders, ws="none", lifespan="off", log_level="error")
        serving = uvicorn.Server(settings)
        thread = threading.Thread(target=serving.run, args=([listener],))
        thread.start()
        try:
            yield running
        finally:
            serving.should_exit = True
            thread.join(30)


JSON = {"Content_Type": "application/json"}


def test_an_honest_request_gets_through_with_its_body(server: Server):
    body = json.dumps({"vm_path": "db01"}).encode()
    assert server.ask("POST", body=body, **JSON) == 200
    assert server.ask("GET") == 200
    assert server.seen == [body, b""]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://localhost:1", "https://127.0.0.1", "http://127.0.0.1.evil.example"]
)
def test_a_page_of_another_site_is_refused_on_every_verb(server: Server, method: str, origin: str):
    assert server.ask(method, Origin=origin) == 403
    assert server.seen == []


def test_its_own_pages_by_any_loopback_name_are_answered(server: Server):
    for name in ("127.0.0.1", "localhost", "[::1]"):
        assert server.ask("GET", Origin=f"http://{name}:{server.port}") == 200


def test_an_unsafe_request_that_a_browser_calls_cross_site_is_refused_without_an_origin(server: Server):
    assert server.ask("POST", Sec_Fetch_Site="cross-site") == 403
    assert server.ask("GET", Sec_Fetch_Site="cross-site") == 200  # a link that was followed


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1@evil.example", "10.0.0.1"])
def test_a_name_that_is_not_loopback_is_refused(server: Server, host: str):
    assert server.ask("GET", Host=host) == 400
    assert server.seen == []


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic cmlnaHQ=", "Bearer", "right"])
def test_without_the_token_nothing_is_read(server: Server, given: str):
    assert server.ask("GET", Authorization=given) == 401
    assert server.ask("GET", "/health", Authorization=given) == 200
    with server.connect() as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost:{server.port}\r\nAuthorization: {given}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        assert b" 401 " in client.recv(100)  # and not a byte of the body was sent
    assert server.seen == [b""]


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(server: Server):
    with server.connect() as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost:{server.port}\r\nAuthorization: Bearer right\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {LARGEST + 1}\r\n\r\n".encode())
        assert b" 413 " in client.recv(100)
    assert server.seen == []


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large(server: Server):
    with server.connect() as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost:{server.port}\r\nAuthorization: Bearer right\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall(b"%x\r\n" % (LARGEST + 1) + b" " * (LARGEST + 1) + b"\r\n")
        assert b" 413 " in client.recv(100)
    assert server.seen == []


FORM_KINDS = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "text/plain; x=application/json",
]


@pytest.mark.parametrize("kind", FORM_KINDS)
def test_a_body_that_a_form_could_send_is_refused(server: Server, kind: str):
    assert server.ask("POST", body=b'{"vm_path": "db01"}', Content_Type=kind) == 415
    assert server.seen == []


@pytest.mark.parametrize("server", [0.2], indirect=True)
def test_a_body_that_never_comes_is_given_up(server: Server):
    with server.connect() as client:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost:{server.port}\r\nAuthorization: Bearer right\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n".encode())
        assert b" 408 " in client.recv(100)
    assert server.seen == []


def test_connections_that_never_finish_their_head_are_closed(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_guard, "SECONDS_FOR_HEADERS", 0.2)
    with server.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert is_closed(client)


def test_of_too_many_waiting_connections_the_oldest_goes_and_others_are_answered(server: Server):
    waiting = [server.connect() for _ in range(http_guard.MOST_WAITING + 20)]
    try:
        for client in waiting:
            client.sendall(b"POST /jobs HTTP/1.1\r\nX-A: ")
        assert server.ask("GET", "/health") == 200
        assert is_closed(waiting[0])
    finally:
        for client in waiting:
            client.close()
