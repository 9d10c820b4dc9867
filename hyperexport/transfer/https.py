"""A connection to the host of a lease, over TLS: what downloads and uploads share."""

import http.client
import socket
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Url, parse_url
from urllib3.util.ssltransport import SSLTransport

from hyperexport.base.stop import StopSignal
from hyperexport.errors import CertificateUntrusted, HyperExportError, ServerFault, ServerUnreachable
from hyperexport.model.tls import clock_is_in_question, refusal_words

FAILURES: Final = (HTTPError, http.client.HTTPException, OSError, ValueError, AttributeError)
"""What urllib3, http.client and ssl raise when the server, the way to it or the address is at fault: ValueError for a
chunk's length that is no number or a name that IDNA refuses, AttributeError for a connection closed meanwhile."""

LONGEST_NAME: Final = 150
"""Characters of a name that the server gave, in a message."""


def fields_of(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The header of an answer, by names in lower case; values of a repeated name are a list (RFC 9110, section 5.3)."""
    fields: dict[str, str] = {}
    for name, value in lines:
        key, own = name.lower(), value.strip()
        fields[key] = f"{fields[key]}, {own}" if key in fields else own
    return fields


def coding_of(fields: Mapping[str, str]) -> str | None:
    """How the body of an answer is encoded, if it is not the bytes themselves or chunks of them; we decode nothing."""
    content, transfer = fields.get("content-encoding", "identity"), fields.get("transfer-encoding", "chunked").lower()
    return content if content != "identity" else transfer if transfer != "chunked" else None


def parse_address(url: str) -> Url:
    """Take the address of a lease's file apart.

    Raises:
        ServerFault: It is none, or not https.
    """
    try:
        address = parse_url(url)
    except LocationParseError as error:
        raise ServerFault("the server returned an invalid download URL") from error
    if address.scheme != "https" or not address.host:
        raise ServerFault(f"the server returned a download URL on {address.host} that is not https")
    return address


def shown(address: Url) -> str:
    """The file's name and host: the rest of the path is, for an NFC lease, the ticket that opens it."""
    file = (address.path or "/").rsplit("/", 1)[-1] or "a file"
    return f"{file[:LONGEST_NAME]} from {(address.netloc or '')[:LONGEST_NAME]}"


def connect(connection: HTTPSConnection, name: str, stop: StopSignal) -> ssl.SSLSocket:
    """Connect and shake hands; returns the socket to read from. Errors as for :func:`shake_hands`."""
    shake_hands(connection, name, stop)
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    # A connection cut without TLS's own goodbye must not look like the end of a stream.
    sock.suppress_ragged_eofs = False  # pyright: ignore[reportAttributeAccessIssue] - typeshed leaves it out
    return sock


def shake_hands(connection: HTTPSConnection, name: str, stop: StopSignal) -> None:
    """Connect and shake hands.

    Raises:
        ServerUnreachable, CertificateUntrusted: As they say.
        Interrupted: The run was asked to stop.
    """
    stop.check()
    try:
        with stop.waking(lambda: cut(connection.sock)):
            connection.connect()
    except FAILURES as error:
        stop.check()
        raise _unconnected(error, name) from error


def _unconnected(error: Exception, name: str) -> HyperExportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        clock = "Set this machine's clock if it is wrong. Otherwise: " if clock_is_in_question(error) else ""
        return CertificateUntrusted(
            f"the certificate of the server is not trusted for {name}: {refusal_words(error)}",
            fix=f"{clock}Name the authority that signed it, or pin its SHA-256 fingerprint",
        )
    return ServerUnreachable(
        f"no connection for {name}: {reason_of(error)}",
        fix="Check that this machine resolves and reaches every ESXi host on TCP port 443, not only vCenter",
    )


def cut(sock: socket.socket | SSLTransport | None) -> None:
    """Shut the TCP connection beneath TLS: SSLSocket.shutdown would drop the TLS state under a reading thread."""
    plain = sock.socket if isinstance(sock, SSLTransport) else sock
    if plain is not None:
        with suppress(OSError):
            socket.socket.shutdown(plain, socket.SHUT_RDWR)


def reason_of(error: Exception) -> str:
    """Why a connection broke, in a few words."""
    match error:
        case TimeoutError():
            return "no data arrived before the timeout"
        case ssl.SSLEOFError():
            return "the connection was cut"
        case http.client.IncompleteRead():
            return "the stream was cut within a chunk"
        case ConnectionResetError():
            return "the server reset the connection"
        case _:
            return str(error)[: 2 * LONGEST_NAME] or type(error).__name__
