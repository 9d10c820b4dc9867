"""A TLS server on loopback whose every answer a test scripts, down to the cut in the middle of a chunk."""

import datetime as dt
import hashlib
import re
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """A certificate that signs itself, with its key."""

    pem: str
    key_pem: str
    der: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def sha1_with_colons(self) -> str:
        """As vSphere's sslThumbprint is written."""
        return hashlib.sha1(self.der).digest().hex(":").upper()

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads keys from files only
            both = Path(folder) / "both.pem"
            both.write_text(self.pem + self.key_pem)
            context.load_cert_chain(both)
        return context


@cache
def certificate(name: str = "127.0.0.1", *, host: str = "127.0.0.1", expired: bool = False) -> Certificate:
    """Make a certificate; the same one for the same arguments.

    Args:
        name: Whose it is, in words.
        host: The address that it is for, beside localhost; another one than ours stands alone.
        expired: Whether its time is over.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=7 if expired else 0)
    names = [x509.IPAddress(IPv4Address(host)), *([x509.DNSName("localhost")] if host == "127.0.0.1" else [])]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(names),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        pem=signed.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        der=signed.public_bytes(serialization.Encoding.DER),
    )


class Exchange:
    """One request, and whatever the script wants to answer."""

    def __init__(self, sock: ssl.SSLSocket, released: threading.Event) -> None:
        self._sock = sock
        self._released = released
        self.request = self.next_request()

    def next_request(self) -> bytes:
        """Read another request on this connection; nothing where the client has closed it."""
        self.request = b""
        while b"\r\n\r\n" not in self.request and (more := self._sock.recv(65536)):
            self.request += more
        return self.request

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sock.sendall(data)

    def read_body(self) -> bytes:
        """The request's body: to close a connection with bytes unread resets it, and may lose the answer."""
        head, _, body = self.request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(body) < int(length[1]) and (more := self._sock.recv(65536)):
            body += more
        return body

    def head(self, status: str = "200 OK", *headers: str) -> None:
        """Send a status line and headers."""
        self.send("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode())

    def chunked(self, *chunks: bytes, end: bool = True) -> None:
        """Answer 200 in these chunks, with or without the end that makes it whole."""
        self.head("200 OK", "Transfer-Encoding: chunked")
        for chunk in chunks:
            self.send(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if end:
            self.send(b"0\r\n\r\n")

    def say_goodbye(self) -> None:
        """End TLS as the protocol wants it, so that the end of the stream looks intended."""
        with suppress(OSError):
            self._sock.unwrap()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def stall(self) -> None:
        """Send nothing until the test is over."""
        self._released.wait()


Script = Callable[[Exchange], None]


class TlsServer:
    """Answers every connection by the script; ``url`` is where."""

    def __init__(self, script: Script, own: Certificate) -> None:
        self._script = script
        self._context = own.server_context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._released = threading.Event()
        self._threads: list[threading.Thread] = []
        self.requests: list[bytes] = []
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/nfc/52-secret-ticket/disk-0.vmdk"

    def accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(raw,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _answer(self, raw: socket.socket) -> None:
        raw.settimeout(60)
        # A client that does not trust us, or that leaves early, is a test's business and not an error here.
        with suppress(OSError), self._context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=True) as sock:
            exchange = Exchange(sock, self._released)
            self.requests.append(exchange.request)
            self._script(exchange)

    def close(self) -> None:
        self._released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@contextmanager
def tls_server(script: Script, own: Certificate | None = None) -> Iterator[TlsServer]:
    """Run a server for the block. When a script returns, the TCP connection ends without TLS's goodbye."""
    server = TlsServer(script, own or certificate())
    acceptor = threading.Thread(target=server.accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        server.close()
        acceptor.join(10)
