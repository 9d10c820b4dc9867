"""A stored file as one stream of known length: as it is stored where it is whole, else put together on the way."""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.convert.package import merge
from hyperexport.images.opening import chain_of, open_disk
from hyperexport.images.verified import wrong_sha256, wrong_size
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.store.base import Store, StoredExport
from hyperexport.transfer.read_ahead import read_ahead


class WholeFile(NamedTuple):
    """A file that can be read any number of times."""

    name: str
    size: int
    sha256: str
    """Of the bytes that were exported; where the file is put together, of what its proved parts give."""
    where: str
    """What an error calls it."""
    local: bool
    """Whether it is one file of a folder: to read it takes neither a network nor the processor."""
    chunks: Callable[[int], Iterator[bytes]]
    """Its bytes in order, in pieces of about so many bytes."""

    def prove(self, digest: str) -> None:
        """Raise unless this is the SHA-256 of its bytes.

        Raises:
            VerificationFailed: It is another.
        """
        if digest != self.sha256:
            raise wrong_sha256(self.where)

    def read_again(self, *algorithms: str, stop: StopSignal) -> dict[str, str]:
        """Read the whole file, prove it by its SHA-256, and return that and the digests by further algorithms.

        Raises:
            ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable: As for :func:`whole_file`.
            Interrupted: The run was asked to stop.
        """
        with read_ahead(self.chunks(MIB), digests=("sha256", *algorithms), stop=stop) as ahead:
            for _ in ahead:
                stop.check()
            found = ahead.digests()
        self.prove(found["sha256"])
        return found


def whole_file(store: Store, export: StoredExport, entry: FileEntry, *, stop: StopSignal) -> WholeFile:
    """Find a file of an export as a stream that needs no other file.

    A disk of several files is put together in two passes, the first of which proves it and finds out its length: that
    needs no temporary space, however large the disk is.

    Args:
        store: Where the export lies.
        export: Which one.
        entry: The file in its manifest.
        stop: Ends the reading.

    Raises:
        ExportNotFound: A file is not there.
        VerificationFailed: A file is damaged; the message names it.
        StoreUnusable, StoreUnreachable: The store could not be read.
    """
    if entry.role is FileRole.DISK and len(chain_of(export.manifest, entry)) > 1:
        return _merged(store, export, entry, stop)
    where = f"{entry.name} of {export} in {store.url}"
    check_stored(store, export, entry)

    def chunks(size: int) -> Iterator[bytes]:
        with store.open(export, entry.name) as reader:
            yield from reader.chunks(size)

    return WholeFile(entry.name, entry.size, entry.sha256, where, not store.refers, chunks)


def check_stored(store: Store, export: StoredExport, entry: FileEntry) -> None:
    """See that a file, or each file of a disk, is there with the size that the manifest says.

    Raises:
        ExportNotFound: It is not there.
        VerificationFailed: It has another size.
    """
    parts = chain_of(export.manifest, entry) if entry.role is FileRole.DISK else (entry,)
    for part in parts:
        with store.open(export, part.name) as reader:
            if reader.size != part.size:
                raise wrong_size(f"{part.name} of {export} in {store.url}", part, reader.size)


def _merged(store: Store, export: StoredExport, entry: FileEntry, stop: StopSignal) -> WholeFile:
    where = f"{entry.name} of {export} in {store.url}"

    def chunks(_size: int) -> Iterator[bytes]:
        with open_disk(store, export, entry, stop=stop) as disk:
            for piece, _ in merge(disk, entry.name):
                stop.check()
                yield piece

    digest, size = hashlib.sha256(), 0
    for piece in chunks(MIB):
        digest.update(piece)
        size += len(piece)
    return WholeFile(entry.name, size, digest.hexdigest(), where, False, chunks)
