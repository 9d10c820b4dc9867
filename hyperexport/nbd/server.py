"""Listens for NBD clients on a Unix socket or a TCP port, and serves several at once."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from hyperexport.base.private_folder import private_folder
from hyperexport.base.units import MIB
from hyperexport.errors import HyperExportError, UsageError
from hyperexport.nbd.connection import Budget, Connection, Image

logger = logging.getLogger(__name__)

MOST_CLIENTS: Final = 16
"""Connections at once; nbdcopy opens 4, qemu 1 for a disk."""
REPLY_BYTES: Final = 128 * MIB
"""What the replies of all clients together may hold in memory."""
_PAUSE: Final = 0.1
"""Seconds between two attempts to accept a client."""
_NEGOTIATION: Final = 10.0
"""Seconds that a client may take to say what it wants."""


class NbdServer:
    """Serves disks read-only; a context manager that ends every connection.

    Args:
        images: The disks by their export names; a client that names none gets the first.
        socket_path: Where the Unix socket is made, for this user only. Must not exist.
        host: The address to listen on, where it is not a Unix socket.
        port: The port; 0 for any that is free.
        on_read: Called with how many bytes each answered request had.

    Raises:
        UsageError: There is no disk, or the address cannot be listened on.
    """

    def __init__(
        self,
        images: Mapping[str, Image],
        *,
        socket_path: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        on_read: Callable[[int], object] | None = None,
    ) -> None:
        if not images:
            raise UsageError("there is no disk to serve over NBD")
        self._images = images
        self._path = socket_path
        self._on_read = on_read or _ignore
        self._budget = Budget(REPLY_BYTES)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._ended = threading.Event()
        self.error: HyperExportError | None = None
        """The first error of a disk; its client was told of an I/O error."""
        self._listener = _listen(socket_path, host, port)
        self._accepting = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return 0 if self._path is not None else int(self._listener.getsockname()[1])

    def uri(self, name: str = "") -> str:
        """How clients name one of the disks; the first if no name is given."""
        if self._path is not None:
            return f"nbd+unix:///{quote(name)}?socket={quote(str(self._path))}"
        host, port = self._listener.getsockname()[:2]
        return f"nbd://{f'[{host}]' if ':' in host else host}:{port}/{quote(name)}"

    def close(self) -> None:
        """Take no more clients and end every connection. Safe to call twice."""
        with self._lock:
            self._ended.set()
            connections, threads = list(self._open), list(self._threads)
        for sock in (self._listener, *connections):
            _shut(sock)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for thread in (self._accepting, *threads):
            if thread.is_alive():
                thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._ended.wait(_PAUSE):
                    return
                # accept(2): the client hung up already, or descriptors or memory ran out for now.
                logger.warning("an NBD client could not be accepted: %s", error.strerror or error)
                continue
            with self._lock:
                if self._ended.is_set() or len(self._open) >= MOST_CLIENTS:
                    logger.warning("an NBD client was refused: %d are connected", len(self._open))
                    sock.close()
                    continue
                self._open.add(sock)
                thread = threading.Thread(target=self._serve, args=(sock,), name="nbd-client", daemon=True)
                self._threads.add(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(_NEGOTIATION)
                if sock.family != socket.AF_UNIX:
                    with suppress(OSError):  # the client is gone: serving it ends at once
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Connection(sock, self._images, budget=self._budget, on_error=self._note, on_read=self._on_read).serve()
        finally:
            with self._lock:
                self._open.discard(sock)
                self._threads.discard(threading.current_thread())

    def _note(self, error: HyperExportError) -> None:
        logger.error("an NBD client received an I/O error: %s", error)
        with self._lock:
            self.error = self.error or error


@contextmanager
def socket_folder() -> Generator[Path]:
    """Make a folder for a socket, which only this user can enter, and remove it after the block.

    Raises:
        UsageError: It cannot be made.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(private_folder("hyperexport-nbd-"))
        except OSError as error:
            raise UsageError(
                f"cannot make a temporary folder for the NBD socket: {error.strerror or error}",
                fix="Set TMPDIR to a folder that this user can write",
            ) from error
        yield folder


def _listen(path: Path | None, host: str, port: int) -> socket.socket:
    where = str(path) if path is not None else f"{host}:{port}"
    try:
        if path is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=MOST_CLIENTS)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # Linux makes the file with the mode that its socket has
            listener.bind(str(path))
            listener.listen(MOST_CLIENTS)
        except (OSError, ValueError):
            listener.close()
            raise
        return listener
    except (OSError, ValueError, OverflowError) as error:  # an invalid name, or a port beyond 65,535
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {where}: {reason}", fix="Choose another --socket or --port") from error


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        logger.debug("an NBD socket was closed already: %s", error)


def _ignore(_length: int) -> None:
    """The listener where there is none."""
