"""The numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), and its messages packed.

Fixed newstyle negotiation, structured replies, the metadata context ``base:allocation``. All integers are big-endian.
"""

import errno
import struct
from enum import IntEnum, IntFlag
from typing import Final

MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_MAGIC: Final = 0x67446698
CHUNK_MAGIC: Final = 0x668E33EF

ALLOCATION: Final = "base:allocation"
ALLOCATION_ID: Final = 1
HOLE_AND_ZERO: Final = 1 | 2
"""The state of a stretch that is not stored and reads as zeros; data has the state 0."""

LARGEST_REQUEST: Final = 32 << 20
"""Bytes: the most that clients may rely on, and the largest request that is answered."""
LARGEST_OPTION: Final = 64 << 10
"""Bytes of an option's data: names have at most 4,096, and a query of contexts names a few."""

HANDSHAKE: Final = struct.Struct(">8s8sH")
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">8sII")
OPTION_REPLY: Final = struct.Struct(">QIII")
REQUEST: Final = struct.Struct(">IHHQQI")
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
CHUNK: Final = struct.Struct(">IHHQI")
HOLE: Final = struct.Struct(">QI")
EXTENT: Final = struct.Struct(">II")


class Handshake(IntFlag):
    """Flags of the server and of the client in the first messages."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Transmission(IntFlag):
    """What a client may do with an export."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8


class Option(IntEnum):
    """What a client may ask before the transmission."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """What it may be answered."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x8000_0001
    ERR_INVALID = 0x8000_0003
    ERR_UNKNOWN = 0x8000_0006
    ERR_TOO_BIG = 0x8000_0009


class Info(IntEnum):
    """The description of an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """What a client may ask during the transmission."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


DONT_FRAGMENT: Final = 1 << 2
ONE_EXTENT: Final = 1 << 3
CHUNK_DONE: Final = 1


class ChunkType(IntEnum):
    """The kinds of a structured reply's chunks."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001


class Errno(IntEnum):
    """The protocol's error numbers, which are those of Linux."""

    PERM = errno.EPERM
    IO = errno.EIO
    INVALID = errno.EINVAL
    OVERFLOW = 75
    SHUTDOWN = 108


def option_reply(option: int, kind: OptionReply, data: bytes = b"") -> bytes:
    """One answer to an option."""
    return OPTION_REPLY.pack(REPLY_MAGIC, option, kind, len(data)) + data


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """The head of a simple reply; the data follows."""
    return SIMPLE_REPLY.pack(SIMPLE_MAGIC, error, cookie)


def chunk(cookie: int, kind: ChunkType, length: int, *, done: bool) -> bytes:
    """The head of a structured reply's chunk; ``length`` bytes follow."""
    return CHUNK.pack(CHUNK_MAGIC, CHUNK_DONE if done else 0, kind, cookie, length)


def error_chunk(cookie: int, error: int, message: str) -> bytes:
    """A structured reply that says what failed."""
    text = message.encode("utf-8", "replace")[:4000]
    return chunk(cookie, ChunkType.ERROR, 6 + len(text), done=True) + struct.pack(">IH", error, len(text)) + text
