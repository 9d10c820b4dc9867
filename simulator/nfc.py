"""The NFC service of a simulated host: what an export lease offers is downloaded here, in one stream without a length.

As real hosts do: the ticket is in the path, so no session is asked for; answers are chunked, since a stream is made
while it is sent; a Range is ignored, since there is no resume (govmomi #1025). A connection that breaks, or a stream
that ends early, is what the faults on demand are for. What an import lease awaits is taken in by ``receive.py``.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from hyperexport.simulator.faults import Fault, FaultKind, Faults
from hyperexport.simulator.inventory import Host
from hyperexport.simulator.leases import OfferedFile, fault_target
from hyperexport.simulator.net import Handler
from hyperexport.simulator.receive import Receiver
from hyperexport.simulator.world import World

logger = logging.getLogger(__name__)

_NON_DISK_PIECE = 64 * 1024


class Reset(Exception):
    """The connection is to break here."""


class NfcHandler(Handler):
    """Answers one connection to a host's NFC service.

    Args:
        world: For the faults and the lock.
        host: Whose service it is.
        expire_sessions: Ends all sessions of the vCenter, for the fault of that name.
        connection: What ``socketserver`` hands over.
    """

    def __init__(self, world: World, host: Host, expire_sessions: Callable[[], None], *connection: Any) -> None:
        self._world = world
        self._host = host
        self._expire_sessions = expire_sessions
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Send a file of a lease."""
        file = self._host.offered.get(self.path)
        if file is None:
            self.refuse(404)
            return
        if file.incoming:
            self._receive()
            return
        target = fault_target(file)
        faults = self._world.faults
        if fault := faults.take(FaultKind.LATENCY, **target):
            _wait(file, fault.delay or 0.1)
        if fault := faults.take(FaultKind.HTTP_STATUS, **target):
            self.refuse(fault.status or 503)
            return
        with self._host.load.downloads.one_more():
            _wait_while_held(file)
            self._send(file, faults.take(FaultKind.EMPTY, **target) is not None)

    def do_POST(self) -> None:
        """Take in a disk for an import lease."""
        self._receive()

    def do_PUT(self) -> None:
        """Take in any other file for an import lease."""
        self._receive()

    def _receive(self) -> None:
        file = self._host.offered.get(self.path)
        if file is None:
            self.close_connection = True
            self.refuse(404)
            return
        Receiver(self, file, self._expire_sessions).receive()

    def do_HEAD(self) -> None:
        """Tell whether a file is offered."""
        self.refuse(200 if self.path in self._host.offered else 404)

    def _send(self, file: OfferedFile, empty: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-vnd.vmware-streamVmdk")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            whole = self._send_chunks([] if empty else _with_faults(file, self._world.faults, self._expire_sessions))
        except Reset:
            logger.info("resetting the download of %s of %s", file.name, file.lease.vm_name)
            self.reset()
            return
        if whole and not empty:
            with self._world.lock:
                file.served(*whole)

    def _send_chunks(self, pieces: Iterable[Any]) -> Any:
        """Send pieces as chunks; answer what the iterator returns at its end."""
        ending = b""
        iterator = iter(pieces)
        result = None
        while True:
            try:
                piece = next(iterator)
            except StopIteration as stop:
                result = stop.value
                break
            self.connection.sendall(b"%s%x\r\n" % (ending, len(piece)))
            self.connection.sendall(piece)
            ending = b"\r\n"
        self.connection.sendall(ending + b"0\r\n\r\n")
        return result


def _wait(file: OfferedFile, seconds: float) -> None:
    lease = file.lease
    with lease.world.lock:
        lease.world.sleep(seconds, lambda: not lease.alive)


def _wait_while_held(file: OfferedFile) -> None:
    lease = file.lease
    world = lease.world
    with world.lock:
        world.sleep(86_400.0, lambda: not (world.downloads_held and lease.alive))


def _pieces(file: OfferedFile) -> Iterator[Any]:
    if file.frozen is not None:
        return iter(file.frozen.stream(name=file.name))
    parts = range(0, len(file.content), _NON_DISK_PIECE)
    return (file.content[start : start + _NON_DISK_PIECE] for start in parts)


def _with_faults(
    file: OfferedFile, faults: Faults, expire_sessions: Callable[[], None]
) -> Generator[Any, None, tuple[int, dict[str, Any]] | None]:
    """The file's stream, with the faults that are armed for it; returns its size and digests if it is whole."""
    target = fault_target(file)
    kinds = (
        FaultKind.CUT,
        FaultKind.TRUNCATE,
        FaultKind.CORRUPT,
        FaultKind.STALL,
        FaultKind.SESSION_EXPIRED,
        FaultKind.LEASE_EXPIRED,
    )
    armed = [fault for kind in kinds if (fault := faults.take(kind, **target))]
    armed.sort(key=lambda fault: fault.at_byte or 0)
    hashers = file.hashers()
    position = 0
    for piece in _pieces(file):
        for hasher in hashers.values():
            hasher.update(piece)
        end = position + len(piece)
        rest = memoryview(piece)
        while armed and (armed[0].at_byte or 0) < end:
            fault = armed.pop(0)
            before = (fault.at_byte or 0) - position
            if before > 0:
                yield rest[:before]
                rest, position = rest[before:], position + before
            if fault.kind is FaultKind.TRUNCATE:
                return None
            rest = _strike(fault, file, rest, expire_sessions)
        if not file.lease.alive or file.lease.world.stopping:
            raise Reset
        if len(rest):
            yield rest
        position = end
    return position, hashers


def _strike(fault: Fault, file: OfferedFile, rest: memoryview, expire_sessions: Callable[[], None]) -> memoryview:
    """Let a fault happen at the beginning of ``rest``; answer what is to be sent instead."""
    match fault.kind:
        case FaultKind.CUT:
            raise Reset
        case FaultKind.CORRUPT:
            return memoryview(bytes([rest[0] ^ 0x01]) + bytes(rest[1:]))
        case FaultKind.STALL:
            _wait(file, fault.delay if fault.delay is not None else 86_400.0)
        case FaultKind.SESSION_EXPIRED:
            expire_sessions()
        case FaultKind.LEASE_EXPIRED:
            with file.lease.world.lock:
                file.lease.expire()
        case _:
            raise AssertionError(fault.kind)
    return rest
