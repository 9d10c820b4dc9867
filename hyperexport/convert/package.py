"""A self-contained OVF package or OVA out of any export, without recompressing a grain."""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.convert.output_files import Output, writing
from hyperexport.errors import ConversionFailed
from hyperexport.formats import ova
from hyperexport.formats.ovf_chain import without_bases
from hyperexport.formats.vmdk import GRAIN, GRAIN_SECTORS
from hyperexport.formats.vmdk_writer import StreamWriter
from hyperexport.images.disk import Disk
from hyperexport.images.opening import chain_of, open_disk, read_whole
from hyperexport.images.verified import wrong_sha256
from hyperexport.model.manifest import FileEntry, FileRole
from hyperexport.store.base import Store, StoredExport

_ROLES: Final = (FileRole.DESCRIPTOR, FileRole.CHECKSUMS, FileRole.DISK, FileRole.NVRAM)
_LARGEST_TEXT: Final = 16 * MIB
_TINY: Final = 512
"""Bytes of a compressed grain that may be one of zeros, which a whole disk leaves out."""

Moved = Callable[[int], None]
"""Called with how many bytes were written since the last call."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the package: its bytes are proved while they are read."""

    name: str
    size: int
    open: Callable[[], AbstractContextManager["_Chunks"]]


class _Chunks:
    """Bytes in order, as :func:`hyperexport.formats.ova.write` takes them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes in order."""
        return iter(self._chunks)


def package_files(export: StoredExport) -> list[str]:
    """The names of the package's files, in its order.

    Raises:
        ConversionFailed: The export has no descriptor.
    """
    names = [entry.name for role in _ROLES for entry in export.manifest.files if entry.role is role]
    if not any(entry.role is FileRole.DESCRIPTOR for entry in export.manifest.files):
        raise ConversionFailed(f"{export} has no OVF descriptor, so it cannot be made into a package")
    return names


def write_ovf(store: Store, export: StoredExport, output: Output, *, stop: StopSignal, moved: Moved) -> None:
    """Write the package's files one by one.

    Raises:
        VerificationFailed: A file of the export is damaged.
        ExportNotFound: One is missing.
        ConversionFailed, DiskFull: The target could not be written.
    """
    with _package(store, export, output, stop) as files:
        for file in files:
            fd = output.create(file.name)
            with file.open() as source, writing(output.partial(file.name)):
                for chunk in source.chunks():
                    _write(fd, chunk)
                    moved(len(chunk))


def write_ova(store: Store, export: StoredExport, output: Output, name: str, *, stop: StopSignal, moved: Moved) -> None:
    """Write the package as one OVA; the errors are those of :func:`write_ovf`."""
    with _package(store, export, output, stop) as files:
        fd = output.create(name)

        def write(data: memoryview) -> None:
            with writing(output.partial(name)):
                _write(fd, data)
            moved(len(data))

        ova.write(
            [ova.Part(file.name, file.size, file.open) for file in files], write, modified=export.manifest.started
        )


@contextmanager
def _package(store: Store, export: StoredExport, output: Output, stop: StopSignal) -> Generator[list[_File]]:
    """The package's files in its order: as they are stored, but a disk of several files is merged first."""
    manifest = export.manifest
    with ExitStack() as stack:
        merged = {
            entry.name: stack.enter_context(_merged(store, export, entry, output, stop))
            for entry in manifest.disks
            if len(chain_of(manifest, entry)) > 1
        }
        files: list[_File] = []
        for role in _ROLES:
            for entry in manifest.files:
                if entry.role is role:
                    stored = _File(entry.name, entry.size, partial(_proved, store, export, entry, stop))
                    files.append(merged[entry.name].file if entry.name in merged else stored)
        if merged:
            files = _described_anew(store, export, files, merged)
        yield files


@contextmanager
def _proved(store: Store, export: StoredExport, entry: FileEntry, stop: StopSignal) -> Generator[_Chunks]:
    """A stored file's bytes; the last is followed by the error if they were not those of the manifest."""

    def chunks() -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in reader.chunks():
            stop.check()
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != entry.sha256:
            raise wrong_sha256(f"{entry.name} of {export} in {store.url}")

    with store.open(export, entry.name) as reader:
        yield _Chunks(chunks())


# -- disks of several files -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Merged:
    """A disk that was written anew as one file."""

    file: _File
    sha256: str
    populated: int


@contextmanager
def _merged(
    store: Store, export: StoredExport, entry: FileEntry, output: Output, stop: StopSignal
) -> Generator[_Merged]:
    """Write a disk as one VMDK into a file without a name, which goes when the block ends."""
    folder = output.partial(entry.name).parent
    with ExitStack() as stack, writing(folder):
        disk = stack.enter_context(open_disk(store, export, entry, stop=stop))
        file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        digest, size, populated = hashlib.sha256(), 0, 0
        for piece, held in merge(disk, entry.name):
            stop.check()
            digest.update(piece)
            file.write(piece)
            size, populated = size + len(piece), held
        file.flush()

        @contextmanager
        def read() -> Generator[_Chunks]:
            file.seek(0)
            yield _Chunks(iter(partial(file.read, MIB), b""))

        yield _Merged(_File(entry.name, size, read), digest.hexdigest(), populated)


def merge(disk: Disk, name: str) -> Iterator[tuple[bytes, int]]:
    """A disk as one whole streamOptimized VMDK: the grains' zlib streams as they are stored, in the disk's order.

    Args:
        disk: The overlay of a base and its deltas.
        name: The new file's name.

    Yields:
        The file's next bytes, and how many bytes of the guest's disk its grains hold so far.

    Raises:
        ConversionFailed: Its grains are not the 64 KiB of vSphere's.
        VerificationFailed: A file of the disk is damaged.
    """
    if disk.grain != GRAIN:
        raise ConversionFailed(f"{name} has grains of {disk.grain} bytes, and only those of {GRAIN} can be merged")
    writer = StreamWriter(disk.capacity, name=name)
    yield writer.header(), 0
    for number, place in disk.places():
        compressed = disk.compressed(number, place)
        if len(compressed) <= _TINY and not any(disk.layers[place.layer].content(number, place.sector)):
            continue
        yield writer.precompressed(number * GRAIN_SECTORS, compressed), writer.populated
    yield writer.finish(), writer.populated


def _described_anew(store: Store, export: StoredExport, files: list[_File], merged: dict[str, _Merged]) -> list[_File]:
    """The package with its descriptor and checksums telling the truth of the merged disks."""
    manifest = export.manifest
    descriptor = next(entry for entry in manifest.files if entry.role is FileRole.DESCRIPTOR)
    text = read_whole(store, export, descriptor, most=_LARGEST_TEXT)
    for entry in manifest.disks:
        text = without_bases(text, entry.name, entry.chain)
    for name, disk in merged.items():
        text = resized(text, name, size=disk.file.size, populated=disk.populated)
    sums = {entry.name: entry.sha256 for role in _ROLES for entry in manifest.files if entry.role is role}
    sums |= {name: disk.sha256 for name, disk in merged.items()}
    sums[descriptor.name] = hashlib.sha256(text).hexdigest()
    listed = {entry.name for entry in manifest.files if entry.role is not FileRole.CHECKSUMS}
    lines = "".join(f"SHA256({name})= {digest}\n" for name, digest in sums.items() if name in listed)
    anew = {descriptor.name: text}
    anew |= {entry.name: lines.encode() for entry in manifest.files if entry.role is FileRole.CHECKSUMS}
    return [_in_memory(file.name, anew[file.name]) if file.name in anew else file for file in files]


def _in_memory(name: str, data: bytes) -> _File:
    @contextmanager
    def read() -> Generator[_Chunks]:
        yield _Chunks((data,))

    return _File(name, len(data), read)


def resized(descriptor: bytes, name: str, *, size: int, populated: int) -> bytes:
    """An OVF descriptor in which one disk has another file size; every other byte stays as the server wrote it.

    Raises:
        ConversionFailed: It does not name the file.
    """
    file = re.search(rb'<(?:\w+:)?File\b[^>]*\bhref="%s"[^>]*>' % re.escape(name.encode()), descriptor)
    if file is None:
        raise ConversionFailed(f"the descriptor does not name {name}")
    identity = re.search(rb'\bid="([^"]*)"', file[0])
    changed = re.sub(rb'(\bsize=")\d+(")', rb"\g<1>%d\g<2>" % size, file[0])
    descriptor = descriptor.replace(file[0], changed)
    if identity is None:
        return descriptor
    disk = re.search(rb'<(?:\w+:)?Disk\b[^>]*\bfileRef="%s"[^>]*>' % re.escape(identity[1]), descriptor)
    if disk is None:
        return descriptor
    return descriptor.replace(disk[0], re.sub(rb'(\bpopulatedSize=")\d+(")', rb"\g<1>%d\g<2>" % populated, disk[0]))


def _write(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
