"""A TLS proxy before an S3 server that fails on demand: refuses, corrupts, stalls, loses answers.

It passes requests on as they are, Host header included, so that their signatures stay good.
"""

import http.client
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.engine.s3_servers import S3Server, make_certificate


class Fault(Enum):
    SLOW_DOWN = auto()
    """503, as S3 answers when it is overloaded."""
    FORBIDDEN = auto()
    """403, as S3 answers where a policy denies one object."""
    CORRUPT = auto()
    """One byte of the body is changed on the way."""
    ERROR_IN_200 = auto()
    """S3: completing an upload may answer 200 and carry an error in its body."""
    LOSE_ANSWER = auto()
    """The server does what was asked, and its answer never comes."""
    HANG_UP = auto()
    """The connection is closed unanswered."""
    STALL = auto()
    """Nothing is read from the connection until the proxy ends."""


Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body."""


@dataclass
class Proxy:
    endpoint_url: str
    ca_file: Path
    requests: list[str] = field(default_factory=list)
    """Method, path and query of each, in the order of their arrival."""
    fault: Callable[[str, int], Fault | None] = lambda _request, _count: None
    """What to do to a request, given "METHOD target" and how often its like (method and S3 part) came before."""
    before: Callable[[str, str, Message, bytes], Answer | None] = lambda *_: None
    """A rule of the server's: given method, target, headers and body it may answer in the server's place."""
    after: Callable[[str, str, Answer], Answer] = lambda _method, _target, answer: answer
    """A habit of the server's: given method and target it may change the answer."""
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


def refusal(status: int, code: str) -> Answer:
    """What S3 answers to a request that it refuses."""
    return status, [("Content-Type", "application/xml")], _ERROR % code.encode()


_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>by the test</Message></Error>"


def _handler(proxy: Proxy, server: S3Server) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one branch a fault
    lock = threading.Lock()
    upstream = urlsplit(server.endpoint_url)
    trust = ssl.create_default_context(cafile=str(server.ca_file))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # The body is written after the headers; with Nagle's algorithm it would wait 40 ms for a delayed ACK.
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            # It connects when it is first used, and again when the server has closed it.
            self.onward = http.client.HTTPSConnection(upstream.hostname or "", upstream.port, context=trust, timeout=30)

        def finish(self) -> None:
            self.onward.close()
            super().finish()

        def handle_any(self) -> None:
            request = f"{self.command} {self.path}"
            plain = request.partition("&X-Amz-")[0]
            with lock:
                before = sum(earlier.partition("&X-Amz-")[0] == plain for earlier in proxy.requests)
                proxy.requests.append(request)
            fault = proxy.fault(plain, before)
            if fault is Fault.STALL:
                proxy.stalled.set()
                proxy.ended.wait()
            if fault in {Fault.HANG_UP, Fault.STALL}:
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault is Fault.SLOW_DOWN:
                self.answer(503, [], _ERROR % b"SlowDown")
            elif fault is Fault.FORBIDDEN:
                self.answer(403, [], _ERROR % b"AccessDenied")
            elif fault is Fault.ERROR_IN_200:
                self.answer(200, [], _ERROR % b"InternalError")
            else:
                if fault is Fault.CORRUPT:
                    body = bytes([body[0] ^ 1]) + body[1:]
                ruled = proxy.before(self.command, self.path, self.headers, body)
                status, headers, data = ruled or proxy.after(self.command, self.path, self.forward(body))
                if fault is Fault.LOSE_ANSWER:
                    self.close_connection = True
                else:
                    self.answer(status, headers, data)

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            self.onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    self.onward.putheader(name, value)
            self.onward.endheaders(body)
            response = self.onward.getresponse()
            return response.status, response.getheaders(), response.read()

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"transfer-encoding", "connection"}:
                    self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    return Handler


@contextmanager
def faulty_proxy(server: S3Server, tmp_path: Path) -> Generator[Proxy]:
    """Stand before ``server`` for the time of the block."""
    tls = make_certificate(tmp_path / "proxy-tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    proxy = Proxy("", tls.ca)

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up is what the tests are about."""

        def finish_request(self, request: object, address: object) -> None:
            # The handshake belongs into the connection's thread, not into the one that accepts.
            with context.wrap_socket(request, server_side=True) as secured:  # type: ignore[arg-type]
                super().finish_request(secured, address)  # type: ignore[arg-type]

    with Listener(("127.0.0.1", 0), _handler(proxy, server)) as listener:
        proxy.endpoint_url = f"https://localhost:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.ended.set()
            listener.shutdown()
            thread.join()
