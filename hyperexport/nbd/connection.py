"""One client: its negotiation, then its requests, several of them at once."""

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from hyperexport.base.units import KIB
from hyperexport.errors import HyperExportError
from hyperexport.nbd import protocol
from hyperexport.nbd.protocol import ChunkType, Command, Errno, Info, Option, OptionReply, Transmission

logger = logging.getLogger(__name__)

MAX_CONCURRENT_REQUESTS: Final = 4
"""Requests of one connection that are worked on side by side."""
_MOST_BUFFERS: Final = 512
"""Buffers in one sendmsg; Linux takes 1,024."""
_MOST_EXTENTS: Final = 8192
_READ_ONLY: Final = (
    Transmission.HAS_FLAGS | Transmission.READ_ONLY | Transmission.SEND_FLUSH | Transmission.CAN_MULTI_CONN
)

_CHANGING = {Command.WRITE, Command.TRIM, Command.WRITE_ZEROES}


class Extent(Protocol):
    """A stretch that is data or zero."""

    @property
    def offset(self) -> int:
        """The offset in the disk, in bytes."""
        ...

    @property
    def length(self) -> int:
        """The length in bytes."""
        ...

    @property
    def data(self) -> bool:
        """Whether it holds data; otherwise it reads as zeros."""
        ...


class Image(Protocol):
    """A disk that can be served, such as :class:`hyperexport.images.Disk`; asked by several threads at once."""

    capacity: int
    grain: int

    def buffers(self, offset: int, length: int) -> list[memoryview]:
        """The bytes of a range of the disk, as buffers in order."""
        ...

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """Where it is data and where zero."""
        ...


class Budget:
    """Bytes that all connections together may hold for replies."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._changed = threading.Condition()

    def take(self, length: int) -> int:
        """Wait until there is room; returns what to give back."""
        length = min(length, self._most)
        with self._changed:
            while self._free < length:
                self._changed.wait()
            self._free -= length
        return length

    def give_back(self, length: int) -> None:
        """Release the memory of an answered request."""
        with self._changed:
            self._free += length
            self._changed.notify_all()


class Closed(Exception):
    """The client is gone, or is to go."""


class _Request(NamedTuple):
    flags: int
    command: int
    cookie: int
    offset: int
    length: int


class Connection:
    """A client's connection; :meth:`serve` returns when it is over.

    Args:
        sock: Its socket, closed by the caller.
        images: The disks by their export names; the first is also that of the empty name.
        budget: What replies may hold in memory.
        on_error: Called with each error of an image, which the client only knows as EIO.
        on_read: Called with how many bytes were read.
    """

    def __init__(
        self,
        sock: socket.socket,
        images: Mapping[str, Image],
        *,
        budget: Budget,
        on_error: Callable[[HyperExportError], object],
        on_read: Callable[[int], object],
    ) -> None:
        self._sock = sock
        self._images = images
        self._budget = budget
        self._on_error = on_error
        self._on_read = on_read
        self._structured = False
        self._allocation: str | None = None
        self._no_zeroes = False
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._over = False

    def serve(self) -> None:
        """Negotiate and answer requests until the client goes."""
        try:
            image = self._negotiate()
            if image is None:
                return
            self._sock.settimeout(None)
            helpers = [
                threading.Thread(target=self._work, args=(image,), name="nbd-request", daemon=True)
                for _ in range(MAX_CONCURRENT_REQUESTS - 1)
            ]
            for helper in helpers:
                helper.start()
            self._work(image)
            for helper in helpers:
                helper.join()
        except (Closed, OSError, struct.error) as error:
            logger.debug("NBD client gone: %s", error)

    # -- negotiation --------------------------------------------------------------------------------------------------

    def _negotiate(self) -> Image | None:
        flags = protocol.Handshake.FIXED_NEWSTYLE | protocol.Handshake.NO_ZEROES
        self._sock.sendall(protocol.HANDSHAKE.pack(protocol.MAGIC, protocol.OPTION_MAGIC, flags))
        (client,) = protocol.CLIENT_FLAGS.unpack(self._receive(protocol.CLIENT_FLAGS.size))
        if client & ~flags:
            raise Closed("it requires a feature that this server does not offer")
        self._no_zeroes = bool(client & protocol.Handshake.NO_ZEROES)
        while True:
            magic, option, length = protocol.OPTION.unpack(self._receive(protocol.OPTION.size))
            if magic != protocol.OPTION_MAGIC or length > protocol.LARGEST_OPTION:
                raise Closed("it does not speak the protocol")
            data = self._receive(length)
            if option == Option.ABORT:
                self._sock.sendall(protocol.option_reply(option, OptionReply.ACK))
                return None
            if option == Option.EXPORT_NAME:
                return self._export_name(data)
            reply, image = self._answer(option, data)
            self._sock.sendall(reply)
            if image is not None:
                return image

    def _answer(self, option: int, data: bytes) -> tuple[bytes, Image | None]:
        """The answer to an option, and the image whose transmission begins with it."""
        try:
            if option in {Option.GO, Option.INFO}:
                return self._info(option, data)
            return self._simple_answer(option, data), None
        except (struct.error, UnicodeDecodeError, IndexError):
            return protocol.option_reply(option, OptionReply.ERR_INVALID), None

    def _simple_answer(self, option: int, data: bytes) -> bytes:
        ack = protocol.option_reply(option, OptionReply.ACK)
        if option == Option.LIST:
            names = (name.encode() for name in self._images)
            servers = (struct.pack(">I", len(name)) + name for name in names)
            return b"".join(protocol.option_reply(option, OptionReply.SERVER, each) for each in servers) + ack
        if option == Option.STRUCTURED_REPLY and not data:
            self._structured = True
            return ack
        if option in {Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT}:
            return self._contexts(option, data) + ack
        refused = OptionReply.ERR_INVALID if option == Option.STRUCTURED_REPLY else OptionReply.ERR_UNSUP
        return protocol.option_reply(option, refused)

    def _image(self, name: str) -> Image | None:
        return self._images.get(name) if name else next(iter(self._images.values()))

    def _flags(self) -> int:
        return _READ_ONLY | (Transmission.SEND_DF if self._structured else 0)

    def _export_name(self, data: bytes) -> Image:
        image = self._image(data.decode("utf-8", "replace"))
        if image is None:
            raise Closed("it asks for an export that is not served")
        self._sock.sendall(struct.pack(">QH", image.capacity, self._flags()) + bytes(0 if self._no_zeroes else 124))
        return image

    def _info(self, option: int, data: bytes) -> tuple[bytes, Image | None]:
        (length,) = struct.unpack_from(">I", data)
        name = _text(data, 4, length)
        image = self._image(name)
        if image is None:
            return protocol.option_reply(option, OptionReply.ERR_UNKNOWN), None
        told = (
            struct.pack(">HQH", Info.EXPORT, image.capacity, self._flags()),
            struct.pack(">HIII", Info.BLOCK_SIZE, 1, 64 * KIB, protocol.LARGEST_REQUEST),
        )
        replies = b"".join(protocol.option_reply(option, OptionReply.INFO, each) for each in told)
        if self._allocation not in {None, name}:
            self._allocation = None  # the context was chosen for another export
        return replies + protocol.option_reply(option, OptionReply.ACK), image if option == Option.GO else None

    def _contexts(self, option: int, data: bytes) -> bytes:
        (length,) = struct.unpack_from(">I", data)
        name = _text(data, 4, length)
        (count,) = struct.unpack_from(">I", data, 4 + length)
        queries: list[str] = []
        at = 8 + length
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, at)
            queries.append(_text(data, at + 4, length))
            at += 4 + length
        matching = {"base:", protocol.ALLOCATION} if option == Option.LIST_META_CONTEXT else {protocol.ALLOCATION}
        wanted = bool(matching & set(queries)) or (option == Option.LIST_META_CONTEXT and not queries)
        if option == Option.SET_META_CONTEXT:
            self._allocation = name if wanted and self._structured else None
        if not wanted or self._image(name) is None:
            return b""
        context = struct.pack(">I", protocol.ALLOCATION_ID) + protocol.ALLOCATION.encode()
        return protocol.option_reply(option, OptionReply.META_CONTEXT, context)

    # -- transmission -------------------------------------------------------------------------------------------------

    def _work(self, image: Image) -> None:
        """Take a request, let the next thread wait for the following one, answer."""
        try:
            while True:
                with self._receiving:
                    if self._over:
                        return
                    request = self._next_request()
                self._respond(image, request)
        except (Closed, OSError) as error:
            self._over = True
            logger.debug("NBD client gone: %s", error)
            self._wake()

    def _wake(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            logger.debug("NBD connection was closed already: %s", error)

    def _next_request(self) -> _Request:
        magic, flags, command, cookie, offset, length = protocol.REQUEST.unpack(self._receive(protocol.REQUEST.size))
        if magic != protocol.REQUEST_MAGIC:
            raise Closed("it does not speak the protocol")
        if command == Command.DISCONNECT:
            raise Closed("it said good-bye")
        if command == Command.WRITE:
            self._skip(length)
        return _Request(flags, command, cookie, offset, length)

    def _respond(self, image: Image, request: _Request) -> None:
        refused = self._refusal(image, request)
        if refused is not None:
            self._send(self._error(request, *refused))
        elif request.command == Command.FLUSH:
            self._send(self._done(request))
        elif request.command == Command.BLOCK_STATUS:
            self._send(self._block_status(image, request))
        else:
            self._read(image, request)

    def _refusal(self, image: Image, request: _Request) -> tuple[Errno, str] | None:
        command, length = request.command, request.length
        reads = command in {Command.READ, Command.BLOCK_STATUS}
        checks = (
            (command in _CHANGING, Errno.PERM, "the export is read-only"),
            (not reads and command != Command.FLUSH, Errno.INVALID, "this command is not offered"),
            (reads and not 0 < length <= image.capacity - request.offset, Errno.INVALID, "it is not on the disk"),
            (command == Command.READ and length > protocol.LARGEST_REQUEST, Errno.OVERFLOW, "it is too long"),
            (command == Command.BLOCK_STATUS and self._allocation is None, Errno.INVALID, "no context was chosen"),
        )
        return next(((number, why) for refused, number, why in checks if refused), None)

    def _read(self, image: Image, request: _Request) -> None:
        held = self._budget.take(request.length)
        try:
            try:
                # Everything is there, and proved, before the first byte of the reply goes out.
                reply = self._read_reply(image, request)
            except HyperExportError as error:
                self._on_error(error)
                reply = self._error(request, Errno.IO, str(error))
            self._send(reply)
            self._on_read(request.length)
        finally:
            self._budget.give_back(held)

    def _read_reply(self, image: Image, request: _Request) -> list[bytes | memoryview]:
        offset, length = request.offset, request.length
        if not self._structured:
            return [protocol.simple_reply(request.cookie), *image.buffers(offset, length)]
        if length <= image.grain or request.flags & protocol.DONT_FRAGMENT:
            head = protocol.chunk(request.cookie, ChunkType.OFFSET_DATA, 8 + length, done=True)
            return [head, struct.pack(">Q", offset), *image.buffers(offset, length)]
        reply: list[bytes | memoryview] = []
        for extent in image.extents(offset, length):
            done = extent.offset + extent.length == offset + length
            if extent.data:
                head = protocol.chunk(request.cookie, ChunkType.OFFSET_DATA, 8 + extent.length, done=done)
                reply += [head + struct.pack(">Q", extent.offset), *image.buffers(extent.offset, extent.length)]
            else:
                head = protocol.chunk(request.cookie, ChunkType.OFFSET_HOLE, protocol.HOLE.size, done=done)
                reply.append(head + protocol.HOLE.pack(extent.offset, extent.length))
        return reply

    def _block_status(self, image: Image, request: _Request) -> list[bytes | memoryview]:
        most = 1 if request.flags & protocol.ONE_EXTENT else _MOST_EXTENTS
        told = bytearray()
        try:
            for extent in image.extents(request.offset, request.length):
                told += protocol.EXTENT.pack(extent.length, 0 if extent.data else protocol.HOLE_AND_ZERO)
                if len(told) == most * protocol.EXTENT.size:
                    break
        except HyperExportError as error:
            self._on_error(error)
            return self._error(request, Errno.IO, str(error))
        head = protocol.chunk(request.cookie, ChunkType.BLOCK_STATUS, 4 + len(told), done=True)
        return [head + struct.pack(">I", protocol.ALLOCATION_ID), bytes(told)]

    def _error(self, request: _Request, number: Errno, message: str) -> list[bytes | memoryview]:
        if self._structured:
            return [protocol.error_chunk(request.cookie, number, message)]
        return [protocol.simple_reply(request.cookie, number)]

    def _done(self, request: _Request) -> list[bytes | memoryview]:
        if self._structured:
            return [protocol.chunk(request.cookie, ChunkType.NONE, 0, done=True)]
        return [protocol.simple_reply(request.cookie)]

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._sock.recv(length - len(data))
            if not piece:
                raise Closed("it hung up")
            data += piece
        return bytes(data)

    def _skip(self, length: int) -> None:
        while length:
            length -= len(self._receive(min(length, 64 * KIB)))

    def _send(self, buffers: Sequence[bytes | memoryview]) -> None:
        with self._sending:
            for at in range(0, len(buffers), _MOST_BUFFERS):
                self._send_some(buffers[at : at + _MOST_BUFFERS])

    def _send_some(self, buffers: Sequence[bytes | memoryview]) -> None:
        sent = self._sock.sendmsg(buffers)
        for buffer in buffers:
            if sent < len(buffer):
                self._sock.sendall(memoryview(buffer)[sent:])
                sent = 0
            else:
                sent -= len(buffer)


def _text(data: bytes, at: int, length: int) -> str:
    if at + length > len(data):
        raise IndexError(length)
    return data[at : at + length].decode()
