"""Who of this machine is answered at a loopback port, over real connections and by what the kernel says."""

import http.client
import os
import pwd
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.responses import JSONResponse

from hyperexport.deployments.local_users import LocalUsers, allowed_users, kernel_tells, user_of
from hyperexport.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who made a socket")

ME = os.getuid()
NOBODY = 65_534

each_loopback = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


async def app(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({"secret": "of the user"})(scope, receive, send)


@contextmanager
def answering(host: str, users: set[int]) -> Generator[tuple[str, int]]:
    """A server that answers these users; its address."""
    guarded = LocalUsers(app, users=frozenset(users))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        serving = uvicorn.Server(uvicorn.Config(guarded, lifespan="off", log_level="error", proxy_headers=False))
        thread = threading.Thread(target=serving.run, args=([listener],))
        thread.start()
        try:
            yield host, listener.getsockname()[1]
        finally:
            serving.should_exit = True
            thread.join(30)


def ask(address: tuple[str, int], **headers: str) -> int:
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request("GET", "/", headers={name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as answer:
            assert (b"secret" in answer.read()) == (answer.status == 200)
            return answer.status
    finally:
        connection.close()


@each_loopback
def test_this_user_is_answered_without_any_password(host: str) -> None:
    with answering(host, {ME}) as address:
        assert ask(address) == 200


@each_loopback
def test_a_user_who_is_not_allowed_is_refused_whatever_its_headers_say(host: str) -> None:
    with answering(host, {ME + 1}) as address:
        assert ask(address) == 403
        assert ask(address, X_Forwarded_For="127.0.0.1", X_Forwarded_Proto="http") == 403


def test_a_websocket_of_another_user_is_not_opened() -> None:
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Version": "13"}
    with answering("127.0.0.1", {ME + 1}) as address:
        assert ask(address, Connection="Upgrade", Upgrade="websocket", **key) == 403


@pytest.mark.skipif(ME != 0, reason="only root can act as another user")
@each_loopback
def test_another_user_of_the_machine_is_refused(host: str) -> None:
    code = """import socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
client.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
print(client.recv(12).decode())"""
    with answering(host, {ME}) as (_, port):
        # The system's Python: another user cannot read a virtual environment below root's home.
        command = ["/usr/bin/python3", "-c", code, host, str(port)]
        answer = subprocess.run(command, user=NOBODY, capture_output=True, text=True, cwd="/", check=True)
    assert answer.stdout.strip() == "HTTP/1.1 403"


def test_a_connection_that_its_client_has_closed_is_of_nobody() -> None:
    """Older kernels call such a socket root's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, address = listener.accept()
        with server:
            assert user_of(address, server.getsockname()) == ME
            client.close()
            assert user_of(address, server.getsockname()) is None


def test_the_kernel_says_it_here() -> None:
    assert kernel_tells()


def test_the_user_root_and_those_that_are_named_are_allowed() -> None:
    assert allowed_users([]) == {ME, 0}
    assert allowed_users(["nobody"]) == {ME, 0, pwd.getpwnam("nobody").pw_uid}
    assert allowed_users(["nobody", "any"]) is None
    with pytest.raises(UsageError, match="no-such-user"):
        allowed_users(["no-such-user"])
