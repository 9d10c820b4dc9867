"""Reads one export of an NBD server: fixed newstyle negotiation, ``NBD_OPT_GO``, simple replies.

It speaks over a Unix socket to a server that this machine started. Its answers are checked anyway. Several requests may
be on their way; the server may answer them in any order.
"""

import os
import socket
import struct
from itertools import count
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.errors import TransferInterrupted
from hyperexport.nbd import protocol
from hyperexport.nbd.protocol import Command, Handshake, Info, Option, OptionReply

_TIMEOUT: Final = 300.0
"""Seconds for one answer: a plugin may log in to vSphere before it."""
_LARGEST_REPLY: Final = 64 << 10
_MOST_REPLIES: Final = 100
_EXPORT_INFO: Final = struct.Struct(">HQH")


class NbdClient:
    """An open export, used by one thread. To end a read that is waiting, end the server.

    Args:
        path: The server's Unix socket.
        stop: Ends the reading.
        name: What an error calls it.

    Raises:
        TransferInterrupted: Nothing listens there, or it does not speak NBD, or refuses the export.
        Interrupted: The run was asked to stop.
    """

    def __init__(self, path: str | os.PathLike[str], *, stop: StopSignal, name: str) -> None:
        self._name = name
        self._stop = stop
        self._cookies = count(1)
        self._asked = dict[int, tuple[int, int]]()
        """What was asked for and not taken: offset and length of each request by its cookie, the oldest first."""
        self._early = dict[int, bytes]()
        """Answers that came before their turn."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT)
        try:
            with stop.waking(self._cut):
                try:
                    self._socket.connect(os.fspath(path))
                    self.size: Final = self._negotiate()
                except OSError as error:
                    raise self._failed(error) from error
        except BaseException:
            self._socket.close()
            raise

    def ask(self, offset: int, length: int) -> None:
        """Send a request for these bytes.

        Raises:
            TransferInterrupted: The server is gone. The connection is then of no use.
            Interrupted: The run was asked to stop.
        """
        self._stop.check()
        cookie = next(self._cookies)
        self._asked[cookie] = offset, length
        try:
            self._socket.sendall(protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, Command.READ, cookie, offset, length))
        except OSError as failure:
            raise self._failed(failure) from failure

    def answer(self) -> bytes:
        """Take the bytes of the oldest request.

        Raises:
            TransferInterrupted: The server answers with an error, or is gone. The connection is then of no use.
            Interrupted: The run was asked to stop.
        """
        self._stop.check()
        oldest = next(iter(self._asked))
        try:
            while oldest not in self._early:
                cookie, data = self._receive_reply()
                self._early[cookie] = data
        except OSError as failure:
            raise self._failed(failure) from failure
        del self._asked[oldest]
        return self._early.pop(oldest)

    def close(self) -> None:
        """Say goodbye, as far as that is possible, and end the connection."""
        try:
            self._socket.settimeout(1.0)
            self._socket.sendall(protocol.REQUEST.pack(protocol.REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
        except OSError:
            pass
        finally:
            self._socket.close()

    def _negotiate(self) -> int:
        """Choose the export without a name; returns its size."""
        magic, option, flags = protocol.HANDSHAKE.unpack(self._receive(protocol.HANDSHAKE.size))
        if (magic, option) != (protocol.MAGIC, protocol.OPTION_MAGIC) or not flags & Handshake.FIXED_NEWSTYLE:
            raise self._interrupted("it does not speak NBD's fixed newstyle")
        name = struct.pack(">IH", 0, 0)  # an export name of no bytes, and no request for more than it must tell
        self._socket.sendall(
            protocol.CLIENT_FLAGS.pack(flags & (Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES))
            + protocol.OPTION.pack(protocol.OPTION_MAGIC, Option.GO, len(name))
            + name
        )
        size: int | None = None
        for _ in range(_MOST_REPLIES):
            reply_magic, option, kind, length = protocol.OPTION_REPLY.unpack(self._receive(protocol.OPTION_REPLY.size))
            if reply_magic != protocol.REPLY_MAGIC or option != Option.GO or length > _LARGEST_REPLY:
                raise self._interrupted("it answered the negotiation with something that is no reply")
            data = self._receive(length)
            if kind == OptionReply.ACK:
                break
            if kind != OptionReply.INFO:
                words = data.decode("utf-8", "replace")[:200]
                raise self._interrupted(f"it refuses the disk{': ' if words else ''}{words}")
            if len(data) >= _EXPORT_INFO.size and data[:2] == struct.pack(">H", Info.EXPORT):
                size = _EXPORT_INFO.unpack_from(data)[1]
        if size is None:
            raise self._interrupted("it does not say how large the disk is")
        return size

    def _receive_reply(self) -> tuple[int, bytes]:
        magic, error, cookie = protocol.SIMPLE_REPLY.unpack(self._receive(protocol.SIMPLE_REPLY.size))
        if magic != protocol.SIMPLE_MAGIC or cookie not in self._asked or cookie in self._early:
            raise self._interrupted("it answered with something that is no reply to a request")
        offset, length = self._asked[cookie]
        if error:
            raise self._interrupted(f"it cannot read {length} bytes at {offset}: {os.strerror(error)}")
        return cookie, self._receive(length)

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionResetError("it closed the connection")
            view = view[count:]
        return bytes(data)

    def _cut(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def _failed(self, error: OSError) -> TransferInterrupted:
        self._stop.check()
        timed_out = isinstance(error, TimeoutError)
        return self._interrupted("it did not answer" if timed_out else (error.strerror or str(error)))

    def _interrupted(self, reason: str) -> TransferInterrupted:
        return TransferInterrupted(f"reading from {self._name} failed: {reason}")
