"""The other half of a host's NFC service: it takes in what an import lease waits for.

As real hosts do: a disk comes by POST, any other file by PUT with ``Overwrite: t``, each with its exact length; the
other verb gets 405. A disk is a streamOptimized VMDK, which is checked and inflated while it arrives. A file that broke
off does not count, and may be sent again from its beginning.
"""

import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hyperexport.base.units import MIB, SECTOR
from hyperexport.errors import StreamCorrupt
from hyperexport.formats.vmdk import GRAIN_HEADER, MARKER, Header
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.simulator.device_changes import no_space
from hyperexport.simulator.disks import Disk
from hyperexport.simulator.faults import Fault, FaultKind
from hyperexport.simulator.import_lease import ImportLease
from hyperexport.simulator.leases import OfferedFile, fault_target

if TYPE_CHECKING:
    from hyperexport.simulator.nfc import NfcHandler

logger = logging.getLogger(__name__)

_PIECE: Final = MIB
_DRAINED: Final = 4 * MIB
"""Bytes that are read of a body that is refused, so that the client sees the answer."""
_LARGEST_NVRAM: Final = 16 * MIB


class Refused(Exception):
    """The upload ends here with an HTTP status; 0 is a reset connection."""

    def __init__(self, status: int, why: str = "") -> None:
        self.status = status
        super().__init__(why)


class Grains:
    """Inflates the grains of a stream that a ``StreamCheck`` has passed, and writes them to a disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._held = bytearray()
        self._skip = 0
        self._header: Header | None = None
        self._over = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            zlib.error: A grain does not inflate.
            ValueError: A grain has another length than grains have.
        """
        self._held += piece
        position = 0
        while not self._over:
            step = min(self._skip, len(self._held) - position)
            position, self._skip = position + step, self._skip - step
            taken = 0 if self._skip else self._record(memoryview(self._held)[position:])
            if not taken:
                break
            position += taken
        del self._held[:position]

    def _record(self, view: memoryview) -> int:
        """Handle the record at the beginning of ``view``; answer its length, 0 where it is not all there yet."""
        try:
            if len(view) < SECTOR:
                return 0
            if self._header is None:
                self._header = Header.parse(bytes(view[:SECTOR]), 0)
                self._skip = (self._header.overhead - 1) * SECTOR
                return SECTOR
            lba, size = GRAIN_HEADER.unpack_from(view, 0)
            if not size:
                sectors, _, kind = MARKER.unpack_from(view, 0)
                self._over = kind == 0
                self._skip = sectors * SECTOR
                return SECTOR
            length = (GRAIN_HEADER.size + size + SECTOR - 1) // SECTOR * SECTOR
            if len(view) < length:
                return 0
            self._write(lba * SECTOR, bytes(view[GRAIN_HEADER.size : GRAIN_HEADER.size + size]))
            return length
        finally:
            view.release()

    def _write(self, offset: int, compressed: bytes) -> None:
        assert self._header is not None
        grain = self._header.grain_bytes
        inflater = zlib.decompressobj()
        data = inflater.decompress(compressed, grain + 1)
        wanted = min(grain, self._disk.capacity - offset)
        if not inflater.eof or len(data) not in {grain, wanted}:
            raise ValueError(f"the grain at byte {offset} of the disk has {len(data)} bytes")
        self._disk.write(offset, data[:wanted])


class Receiver:
    """Takes in one upload.

    Args:
        handler: The connection.
        file: What is to arrive.
        expire_sessions: Ends all sessions of the vCenter, for the fault of that name.
    """

    def __init__(self, handler: "NfcHandler", file: OfferedFile, expire_sessions: Callable[[], None]) -> None:
        self._handler = handler
        self._file = file
        self._expire_sessions = expire_sessions
        self._left: int = -1
        """Bytes of the body that are not read yet; -1 before its length is known."""

    def receive(self) -> None:
        """Read the body and answer."""
        handler, file = self._handler, self._file
        try:
            self._check_verb()
            self._left = self._length()
            self._fail_on_demand()
            size, hashers, content = self._take_in()
        except Refused as refused:
            logger.info("upload of %s of %s: %s %s", file.name, file.lease.vm_name, refused.status, refused)
            if not refused.status:
                handler.reset()
                return
            handler.close_connection = True
            allowed = {"Allow": file.verb if file.incoming else "GET"} if refused.status == 405 else {}
            handler.answer(refused.status, str(refused).encode(), headers=allowed)
            self._drain()
            return
        with file.lease.world.lock:
            if file.disk is None:
                file.lease.machine.set_nvram(content)
            file.served(size, hashers)
            file.lease.world.touch()
        handler.answer(201 if file.disk is None else 200)

    def _length(self) -> int:
        length = self._handler.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "Length Required")
        return int(length)

    def _check_verb(self) -> None:
        handler, file = self._handler, self._file
        if not file.incoming or handler.command != file.verb:
            raise Refused(405, "Method Not Allowed")
        if handler.command == "PUT" and handler.headers.get("Overwrite", "").lower() != "t":
            raise Refused(412, "Precondition Failed")

    def _fail_on_demand(self) -> None:
        target, faults = fault_target(self._file), self._file.lease.world.faults
        if fault := faults.take(FaultKind.LATENCY, **target):
            self._wait(fault.delay or 0.1)
        if fault := faults.take(FaultKind.HTTP_STATUS, **target):
            raise Refused(fault.status or 503)

    def _take_in(self) -> tuple[int, dict[str, Any], bytes]:
        file, hashers = self._file, self._file.hashers()
        file.forget()
        take = self._disk_sink(file.disk.image) if file.disk else None
        content = bytearray()
        size = 0
        try:
            for piece in self._pieces():
                for hasher in hashers.values():
                    hasher.update(piece)
                size += len(piece)
                if take:
                    take(piece)
                    self._require_space()
                else:
                    content += piece
                    if len(content) > _LARGEST_NVRAM:
                        raise Refused(500, "the file is too large")
            if take:
                take(None)
        except (StreamCorrupt, zlib.error, ValueError) as error:
            raise Refused(500, f"the disk is not a sound streamOptimized VMDK: {error}") from error
        return size, hashers, bytes(content)

    def _disk_sink(self, disk: Disk) -> Callable[[bytes | None], None]:
        disk.clear()
        check, grains = StreamCheck(capacity=disk.capacity), Grains(disk)

        def take(piece: bytes | None) -> None:
            if piece is None:
                check.finish()
            else:
                check.feed(piece)
                grains.feed(piece)

        return take

    def _pieces(self) -> Iterator[bytes]:
        """The body, with the faults that are armed for it."""
        file, position = self._file, 0
        faults = file.lease.world.faults
        kinds = (
            FaultKind.UPLOAD_CUT,
            FaultKind.UPLOAD_STALL,
            FaultKind.DATASTORE_FULL,
            FaultKind.LEASE_EXPIRED,
            FaultKind.SESSION_EXPIRED,
        )
        armed = [fault for kind in kinds if (fault := faults.take(kind, **fault_target(file)))]
        armed.sort(key=lambda fault: fault.at_byte or 0)
        while self._left or armed:
            while armed and ((armed[0].at_byte or 0) <= position or not self._left):
                self._strike(armed.pop(0))
            if not self._left:
                return
            until = (armed[0].at_byte or 0) - position if armed else _PIECE
            piece = self._handler.rfile.read(min(_PIECE, self._left, until))
            if not piece:
                raise Refused(0, "the client went away")
            if not file.lease.alive or file.lease.world.stopping:
                raise Refused(0, "the lease has ended")
            self._left -= len(piece)
            position += len(piece)
            yield piece

    def _strike(self, fault: Fault) -> None:
        file = self._file
        lock = file.lease.world.lock
        match fault.kind:
            case FaultKind.UPLOAD_CUT:
                raise Refused(0, "cut on demand")
            case FaultKind.UPLOAD_STALL:
                self._wait(fault.delay if fault.delay is not None else 86_400.0)
            case FaultKind.SESSION_EXPIRED:
                self._expire_sessions()
            case FaultKind.LEASE_EXPIRED:
                with lock:
                    file.lease.expire()
            case _:
                self._fail_for_space()

    def _require_space(self) -> None:
        disk = self._file.disk
        with self._file.lease.world.lock:
            full = disk is not None and disk.spec.thin and not disk.store.free_space
        if full:
            self._fail_for_space()

    def _fail_for_space(self) -> None:
        lease = self._file.lease
        assert isinstance(lease, ImportLease)
        with lease.world.lock:
            lease.fail(no_space(lease.machine.store))
        raise Refused(500, "No space left on device")

    def _wait(self, seconds: float) -> None:
        lease = self._file.lease
        with lease.world.lock:
            lease.world.sleep(seconds, lambda: not lease.alive)

    def _drain(self) -> None:
        """Read what is left of a body that was refused: a connection closed before loses the answer."""
        handler = self._handler
        with suppress(OSError, ValueError):
            if "Content-Length" not in handler.headers:
                handler.read_body()
                return
            left = min(int(handler.headers["Content-Length"]) if self._left < 0 else self._left, _DRAINED)
            while left and (piece := handler.rfile.read(min(left, _PIECE))):
                left -= len(piece)
