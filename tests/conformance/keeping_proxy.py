"""Stands between a client and a vcsim's hosts, and keeps each body that is uploaded; vcsim itself throws it away."""

import http.client
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from hyperexport.simulator.certificates import make_server
from tests.conformance.vcsim import Vcsim

_PIECE = 1 << 20


@contextmanager
def keeping_uploads(server: Vcsim, kept: Path) -> Generator[Vcsim]:
    """Have the addresses of the server's leases lead through a proxy of ours.

    Args:
        server: A vcsim of the caller's own.
        kept: Where each body goes, by the last part of its address.
    """
    trust = ssl.create_default_context(cafile=str(server.ca_file))

    class Keep(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            left = int(self.headers["Content-Length"])
            path = kept / self.path.rpartition("/")[2]
            with path.open("wb") as file:
                while left:
                    piece = self.rfile.read(min(_PIECE, left))
                    if not piece:
                        raise ConnectionError("the body ended early")
                    file.write(piece)
                    left -= len(piece)
            onward = http.client.HTTPSConnection(server.host, server.port, context=trust)
            with path.open("rb") as file:
                onward.request(self.command, self.path, file, dict(self.headers))
            answer = onward.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            onward.close()

        do_PUT = do_POST  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            pass

    identity = make_server("127.0.0.1", name="proxy")
    both = server.home / "both.pem"
    both.write_bytes(server.ca_file.read_bytes() + identity.pem)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Keep)
    proxy.socket = identity.server_context(server.home, "proxy").wrap_socket(proxy.socket, server_side=True)
    thread = Thread(target=proxy.serve_forever)
    thread.start()
    try:
        server.govc("option.set", "vcsim.server.url", f"https://127.0.0.1:{proxy.server_port}")
        yield replace(server, ca_file=both)
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
