"""A TLS connection that sends in a thread of its own what another thread encrypts.

OpenSSL encrypts 3 GB/s on one core and the system takes as long to send; ssl.SSLSocket does one after the other, and
asks the system once for each record of 16 KiB. Here a whole piece is encrypted into memory (ssl.SSLObject, by urllib3's
SSLTransport) and handed to the sender, which asks once.
"""

import socket
import ssl
import threading
from contextlib import suppress
from typing import Final

from urllib3.connection import HTTPSConnection
from urllib3.util.ssltransport import SSLTransport

from hyperexport.transfer.bounded_queue import BoundedQueue

AHEAD: Final = 3
"""Pieces that wait for the sender."""


class SendAhead(socket.socket):
    """A connected socket whose :meth:`sendall` returns before the bytes are sent; what failed, the next call raises.

    Args:
        connected: The socket that it takes the place of.
    """

    def __init__(self, connected: socket.socket) -> None:
        timeout = connected.gettimeout()
        super().__init__(connected.family, connected.type, connected.proto, fileno=connected.detach())
        self.settimeout(timeout)
        self._pieces: Final = BoundedQueue[bytes | threading.Event | None](AHEAD)
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._send_pieces, name="send-ahead", daemon=True)
        self._thread.start()

    def sendall(self, data: bytes, _flags: int = 0, /) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Have bytes sent after those before; waits while too many are waiting.

        Raises:
            OSError: Those before could not be sent.
        """
        if self._error is not None:
            raise self._error
        if data:
            self._pieces.put(data)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Read the answer to what was sent: all of that is sent first, however long it takes."""
        sent = threading.Event()
        self._pieces.put(sent)
        sent.wait()
        return super().recv(size, flags)

    def end(self) -> None:
        """Cut the connection, and end the thread; what still waits is not sent. :meth:`close` alone does neither."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()
        self.close()

    def _send_pieces(self) -> None:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, threading.Event):
                piece.set()
            elif self._error is None:
                try:
                    self._send(piece)
                except OSError as error:
                    self._error = error

    def _send(self, piece: bytes) -> None:
        # socket.sendall has one timeout for all of the bytes; each send has its own.
        left = memoryview(piece)
        while left:
            left = left[self.send(left) :]


class SendAheadConnection(HTTPSConnection):
    """An HTTPS connection over :class:`SendAhead`.

    Args:
        host: Name or address.
        port: Of TCP.
        timeout: Seconds to connect and shake hands.
        context: What the server has to prove.
    """

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout)  # pyright: ignore[reportUnknownMemberType]
        self._context = context
        self._ahead: SendAhead | None = None

    def connect(self) -> None:
        """Connect and shake hands."""
        self.sock = self._ahead = SendAhead(self._new_conn())
        self.sock = SSLTransport(  # pyright: ignore[reportAttributeAccessIssue] - a socket in all that is used of it
            self._ahead, self._context, server_hostname=self.host, suppress_ragged_eofs=False
        )

    def end(self) -> None:
        """End the connection and its thread. http.client closes it before it has read an answer that is the last."""
        self.close()
        if self._ahead:
            self._ahead.end()
