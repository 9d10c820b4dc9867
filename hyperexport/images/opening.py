"""Opens the disks of a stored export, wherever their bytes lie."""

import hashlib
import logging
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise

from hyperexport.base.stop import StopSignal
from hyperexport.errors import USE_ANOTHER_EXPORT, ExportNotFound, StreamCorrupt, VerificationFailed
from hyperexport.formats.block_tags import BlockTags, packed_size
from hyperexport.formats.grain_tags import GrainTags, most_bytes
from hyperexport.formats.vmdk import NO_PARENT
from hyperexport.formats.vmdk_image import Readable
from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.stream import StreamedDisk, StreamedPart
from hyperexport.images.verified import Listener, VerifiedFile, verify_whole, wrong_sha256, wrong_size
from hyperexport.model.manifest import GRAINS_SUFFIX, TAGS_SUFFIX, ExportManifest, FileEntry, FileRole
from hyperexport.store.at_once import at_once
from hyperexport.store.base import RangeReader, Store, StoredExport

logger = logging.getLogger(__name__)


@contextmanager
def open_disk(
    store: Store, export: StoredExport, entry: FileEntry, *, stop: StopSignal, progress: Listener | None = None
) -> Generator[Disk]:
    """Open one disk of an export to be read in ranges, each block proved before it is handed out.

    Where the export left no tags of the blocks, the disk's files are read and proved as a whole first.

    Args:
        store: Where the export lies.
        export: Which one.
        entry: The disk in its manifest.
        stop: Ends the reading.
        progress: Told how far the reading of a whole file is.

    Raises:
        ExportNotFound: A file of the disk is not there.
        VerificationFailed: A file is damaged; the message names it and the offset.
        StoreUnusable, StoreUnreachable: The store could not be read.
    """
    parts = chain_of(export.manifest, entry)
    with ExitStack() as stack:
        readers = open_parts(store, export, parts, stack)
        left = at_once(lambda part: _usable_tags(store, export, part, stop), parts, distant=store.refers)
        files: list[VerifiedFile] = []
        for part, reader, tags in zip(parts, readers, left, strict=True):
            where = _where(store, export, part)
            proof = tags or verify_whole(reader, part, where=where, stop=stop, progress=progress)
            files.append(VerifiedFile(reader, part, proof, where=where, distant=store.refers, stop=stop))
        layers = _layers(store, export, parts, files)
        check_chain(layers, parts)
        disk = stack.enter_context(Disk(layers, files))
        _check_capacity(disk, entry)
        yield disk


@contextmanager
def open_streamed(store: Store, export: StoredExport, entry: FileEntry, *, stop: StopSignal) -> Generator[StreamedDisk]:
    """Open one disk of an export to be read once from beginning to end, which proves it by the manifest's SHA-256.

    Raises:
        ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable: As for :func:`open_disk`.
    """
    parts = chain_of(export.manifest, entry)
    with ExitStack() as stack:
        readers = open_parts(store, export, parts, stack)
        for part, reader in zip(parts, readers, strict=True):
            if reader.size != part.size:
                raise wrong_size(_where(store, export, part), part, reader.size)
        layers = _layers(store, export, parts, readers)
        check_chain(layers, parts)
        disk = stack.enter_context(Disk(layers))
        _check_capacity(disk, entry)
        yield StreamedDisk(disk, [StreamedPart(*part) for part in zip(layers, readers, parts, strict=True)], stop)


@contextmanager
def open_disks(
    store: Store,
    export: StoredExport,
    entries: Sequence[FileEntry] | None = None,
    *,
    stop: StopSignal,
    progress: Listener | None = None,
) -> Generator[list[Disk]]:
    """Open disks of an export to be read in ranges, all of them in the VM's order if none is named.

    See :func:`open_disk`.
    """
    wanted = export.manifest.disks if entries is None else entries
    with ExitStack() as stack:
        yield [stack.enter_context(open_disk(store, export, each, stop=stop, progress=progress)) for each in wanted]


def open_parts(store: Store, export: StoredExport, parts: Sequence[FileEntry], stack: ExitStack) -> list[RangeReader]:
    """Open files of an export; the stack closes them.

    Raises:
        ExportNotFound, StoreUnusable, StoreUnreachable: One cannot be opened.
    """
    files = at_once(lambda part: store.open(export, part.name), parts, distant=store.refers)
    return [stack.enter_context(file) for file in files]


def _layers(store: Store, export: StoredExport, parts: Sequence[FileEntry], files: Sequence[Readable]) -> list[Layer]:
    def layer(number: int) -> Layer:
        return Layer(files[number], _where(store, export, parts[number]))

    return at_once(layer, range(len(parts)), distant=store.refers)


def _where(store: Store, export: StoredExport, part: FileEntry) -> str:
    return f"{part.name} of {export} in {store.url}"


def _check_capacity(disk: Disk, entry: FileEntry) -> None:
    if entry.capacity not in {None, disk.capacity}:
        where = disk.layers[-1].where
        raise VerificationFailed(f"{where} is a disk of {disk.capacity} bytes, the manifest says {entry.capacity}")


def chain_of(manifest: ExportManifest, entry: FileEntry) -> tuple[FileEntry, ...]:
    """The files that a disk is made of, the base first."""
    return manifest.parts(entry)


def check_chain(layers: Sequence[Layer], entries: Sequence[FileEntry]) -> None:
    """Refuse files that are no chain: each delta's descriptor names the content and the file that it builds on.

    Args:
        layers: The open files, the base first.
        entries: The same files in the manifest.

    Raises:
        VerificationFailed: A file is another's delta, or no delta at all.
    """
    if len(layers) > 1:
        links = list(zip(layers, entries, strict=True))
        for before, link in pairwise([None, *links]):
            assert link
            check_link(before, link)


Link = tuple[Layer, FileEntry]
"""A file of a chain: opened, and its entry in the manifest."""


def check_link(before: Link | None, link: Link) -> None:
    """Refuse a file of a chain that does not build on the one before it; the first one builds on none.

    Raises:
        VerificationFailed: It is another's delta, or no delta at all.
    """
    layer, entry = link
    found = layer.identity()
    content_id, name = (before[0].identity().content_id, before[1].name) if before else (NO_PARENT, None)
    if (found.parent_id, found.parent_name) != (content_id, name):
        raise VerificationFailed(
            f"{layer.where} builds on {found.parent_name or 'no file'} with the content id "
            f"{found.parent_id:08x}, not on {name or 'no file'} with {content_id:08x}",
            fix=USE_ANOTHER_EXPORT,
        )
    if entry.cid not in {None, f"{found.content_id:08x}"}:
        raise VerificationFailed(
            f"{layer.where} has the content id {found.content_id:08x}, the manifest says {entry.cid}"
        )


def read_whole(store: Store, export: StoredExport, entry: FileEntry, *, most: int) -> bytes:
    """Read a small file of an export, proved.

    Args:
        store: Where it lies.
        export: The export.
        entry: The file in its manifest.
        most: Bytes that it may have.

    Raises:
        ExportNotFound: It is not there.
        VerificationFailed: It is not the file that was exported, or too large.
    """
    where = _where(store, export, entry)
    if entry.size > most:
        raise VerificationFailed(f"{where} has {entry.size} bytes, which is more than such a file can have")
    with store.open(export, entry.name) as reader:
        data = reader.read_at(0, entry.size) if reader.size == entry.size else b""
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise wrong_sha256(where)
    return data


def tags_of(store: Store, export: StoredExport, part: FileEntry, stop: StopSignal) -> BlockTags | None:
    """Read the tags that the export left of one of its files, proved; None where it left none.

    Raises:
        ExportNotFound: They are not there.
        VerificationFailed: They are not those that the export left.
        StoreUnusable, StoreUnreachable: The store did not give them.
    """
    stop.check()
    entry = export.manifest.file(part.name + TAGS_SUFFIX)
    if entry is None or entry.role is not FileRole.TAGS:
        return None
    try:
        tags = BlockTags.unpack(read_whole(store, export, entry, most=packed_size(part.size)))
    except StreamCorrupt as error:
        raise VerificationFailed(f"{_where(store, export, entry)}: {error.what}", fix=error.fix) from error
    if tags.size != part.size:
        raise VerificationFailed(
            f"{_where(store, export, entry)} is of a file of {tags.size} bytes, {part.name} has {part.size}"
        )
    return tags


def grain_tags_of(store: Store, export: StoredExport, part: FileEntry, stop: StopSignal) -> GrainTags | None:
    """Read the tags of the grains that one of an export's files holds, proved; None where it left none.

    Raises:
        ExportNotFound, VerificationFailed, StoreUnusable, StoreUnreachable: As for :func:`tags_of`.
    """
    stop.check()
    entry = export.manifest.file(part.name + GRAINS_SUFFIX)
    if entry is None or entry.role is not FileRole.TAGS or part.capacity is None:
        return None
    try:
        tags = GrainTags.unpack(read_whole(store, export, entry, most=most_bytes(part.capacity)))
    except StreamCorrupt as error:
        raise VerificationFailed(f"{_where(store, export, entry)}: {error.what}", fix=error.fix) from error
    if (tags.size, tags.capacity) != (part.size, part.capacity):
        raise VerificationFailed(
            f"{_where(store, export, entry)} is of a file of {tags.size} bytes and a disk of {tags.capacity}, "
            f"{part.name} has {part.size} and {part.capacity}"
        )
    return tags


def _usable_tags(store: Store, export: StoredExport, part: FileEntry, stop: StopSignal) -> BlockTags | None:
    """The same; None also where they cannot be relied on: the disk itself can still be proved by its SHA-256."""
    try:
        return tags_of(store, export, part, stop)
    except (ExportNotFound, VerificationFailed) as error:
        logger.warning(
            "%s: the whole disk is read first, because its block tags are unusable: %s. "
            "Verify the export: hyperexport verify %s --deep",
            *(part.name, error.what, export.export_id),
        )
        return None
