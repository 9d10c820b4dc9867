"""Requests to a Prefect server that is busy, or broken: a real HTTP server on loopback that answers by a list."""

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import uuid4

import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from hyperexport.workarounds import server_outage
from hyperexport.workarounds.server_outage import request_once


@contextmanager
def answering(*codes: int) -> Generator[list[str]]:
    """Answer each request with the next code, and the last for ever, as Prefect's API; give what was asked."""
    asked: list[str] = []
    left = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Say that no CSRF token is needed."""
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(left.pop(0) if left else codes[-1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
            yield asked
        server.shutdown()


def test_a_request_is_sent_again_while_a_busy_server_refuses_it() -> None:
    run = uuid4()
    with answering(503, 503, 204) as asked:
        request_once(lambda client: client.update_flow_run_labels(run, {"a": "b"}))
    assert asked == [f"/api/flow_runs/{run}/labels"] * 3


def test_a_server_that_stays_busy_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_outage, "SECONDS_WHILE_BUSY", 1)
    with answering(503), pytest.raises(PrefectHTTPStatusError, match="503"):
        request_once(lambda client: client.update_flow_run_labels(uuid4(), {"a": "b"}))


def test_a_request_that_the_server_fails_is_not_sent_again() -> None:
    with answering(500, 204) as asked, pytest.raises(PrefectHTTPStatusError):
        request_once(lambda client: client.update_flow_run_labels(uuid4(), {"a": "b"}))
    assert len(asked) == 1
