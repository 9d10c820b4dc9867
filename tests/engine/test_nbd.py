"""The NBD server against clients that keep to the protocol, and against those that do not."""

import contextlib
import random
import socket
import struct
from collections.abc import Generator
from pathlib import Path

import pytest

from hyperexport.base.units import MIB
from hyperexport.errors import UsageError, VerificationFailed
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.nbd import server as nbd_server
from hyperexport.nbd.server import NbdServer
from hyperexport.simulator.disks import Disk as GuestDisk
from tests.images import disk_of, proven

CAPACITY = 4 * MIB
GUEST = GuestDisk(CAPACITY, 1, used=0.5)
STORED = b"".join(GUEST.freeze().stream())
READ, WRITE, DISCONNECT, FLUSH, TRIM, STATUS = 0, 1, 2, 3, 4, 7


class Client:
    """A client that speaks NBD's fixed newstyle, byte by byte."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(path))
        assert self.take(16) == b"NBDMAGICIHAVEOPT"
        self.take(2)
        self.sock.sendall(struct.pack(">I", 3))

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.sock.recv(length - len(data))
            assert piece, "the server hung up"
            data += piece
        return data

    def option(self, number: int, data: bytes = b"") -> tuple[int, bytes]:
        self.sock.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        _, _, kind, length = struct.unpack(">QIII", self.take(20))
        return kind, self.take(length)

    def go(self, name: bytes = b"") -> int:
        """Begin the transmission; returns the disk's size."""
        kind, data = self.option(7, struct.pack(">I", len(name)) + name + b"\0\0")
        size = 0
        while kind == 3:
            if data[:2] == b"\0\0":
                size = struct.unpack(">HQH", data)[1]
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            data = self.take(length)
        assert kind == 1
        return size

    def ask(self, command: int, offset: int, length: int, *, data: bytes = b"", flags: int = 0) -> int:
        """A request; returns the error of its simple reply."""
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, 77, offset, length) + data)
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert (magic, cookie) == (0x67446698, 77)
        return error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nbd"


@pytest.fixture
def server(path: Path) -> Generator[NbdServer]:
    with disk_of(STORED) as disk, NbdServer({"disk-0": disk, "disk-1": disk}, socket_path=path) as running:
        yield running


def test_a_client_without_structured_replies_reads_the_guests_bytes(server: NbdServer, path: Path) -> None:
    client = Client(path)
    assert client.go(b"disk-1") == CAPACITY
    for offset, length in ((0, 512), (65_530, 100), (MIB - 5, 2 * MIB), (CAPACITY - 1, 1)):
        assert client.ask(READ, offset, length) == 0
        assert client.take(length) == GUEST.read(offset, length)


@pytest.mark.parametrize(
    ("command", "offset", "length", "error"),
    [
        (READ, CAPACITY, 1, 22),
        (READ, CAPACITY - 1, 2, 22),
        (READ, (1 << 64) - 1, 4096, 22),
        (READ, 0, 0, 22),
        (READ, 0, (1 << 32) - 1, 22),
        (TRIM, 0, 512, 1),
        (6, 0, 512, 1),
        (5, 0, 512, 22),
        (99, 0, 512, 22),
        (STATUS, 0, 512, 22),
        (FLUSH, 0, 0, 0),
    ],
)
def test_what_cannot_be_is_refused_and_the_connection_goes_on(
    server: NbdServer, path: Path, command: int, offset: int, length: int, error: int
) -> None:
    client = Client(path)
    client.go()
    assert client.ask(command, offset, length) == error
    assert client.ask(READ, 0, 16) == 0
    assert client.take(16) == GUEST.read(0, 16)


def test_nothing_can_be_written(server: NbdServer, path: Path) -> None:
    client = Client(path)
    client.go()
    assert client.ask(WRITE, 0, 5000, data=b"x" * 5000) == 1
    assert client.ask(READ, 0, 5000) == 0
    assert client.take(5000) == GUEST.read(0, 5000)


def test_an_unknown_disk_and_an_unknown_option_are_refused_and_the_negotiation_goes_on(
    server: NbdServer, path: Path
) -> None:
    client = Client(path)
    assert client.option(7, struct.pack(">I", 4) + b"nope" + b"\0\0")[0] == 0x80000006
    assert client.option(5)[0] == 0x80000001
    assert client.option(7, b"\xff")[0] == 0x80000003
    assert client.option(7, struct.pack(">I", 2) + b"\xff\xff" + b"\0\0")[0] == 0x80000003
    assert client.option(8, b"data")[0] == 0x80000003
    assert client.go() == CAPACITY


def test_damage_is_an_io_error_for_the_client_and_names_the_file_for_us(path: Path) -> None:
    rotten = bytearray(STORED)
    rotten[len(STORED) // 2] ^= 1
    with Disk([Layer(proven(STORED, now=rotten), "X")]) as disk, NbdServer({"d": disk}, socket_path=path) as server:
        client = Client(path)
        client.go()
        errors = []
        for offset in range(0, CAPACITY, 65_536):
            error = client.ask(READ, offset, 65_536)
            errors.append(error)
            if not error:
                assert client.take(65_536) == GUEST.read(offset, 65_536)
        assert 5 in errors
        assert isinstance(server.error, VerificationFailed)


def test_garbage_ends_the_connection_and_not_the_server(server: NbdServer, path: Path) -> None:
    chance = random.Random(11)
    for number in range(30):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(path))
        with sock, contextlib.suppress(OSError):
            if number % 2:
                sock.recv(18)
                sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT")
            sock.sendall(chance.randbytes(200))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert Client(path).go() == CAPACITY


def test_more_clients_than_allowed_are_turned_away(
    server: NbdServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nbd_server, "MOST_CLIENTS", 2)
    clients = [Client(path), Client(path)]
    with pytest.raises(AssertionError, match="hung up"):
        Client(path)
    assert [client.go() for client in clients] == [CAPACITY] * 2


def test_only_this_user_can_connect_and_the_socket_goes_with_the_server(path: Path) -> None:
    with disk_of(STORED) as disk:
        with NbdServer({"d": disk}, socket_path=path) as server:
            assert path.stat().st_mode & 0o777 == 0o600
            assert server.uri("d") == f"nbd+unix:///d?socket={path}"
            client = Client(path)
        assert not path.exists()
        assert client.sock.recv(1) == b""
        path.write_text("somebody's file")
        with pytest.raises(UsageError, match="cannot listen on"):
            NbdServer({"d": disk}, socket_path=path)
        assert path.read_text() == "somebody's file"
