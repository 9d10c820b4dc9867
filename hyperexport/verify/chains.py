"""A disk of several files, opened as a reader opens it; imported only where an export has one."""

from collections.abc import Sequence
from contextlib import ExitStack

from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.opening import check_link, open_parts
from hyperexport.model.manifest import FileEntry
from hyperexport.store.at_once import at_once
from hyperexport.store.base import Store, StoredExport

Place = tuple[str, str, str | None]
"""Which bytes a file of a chain is, its name there, and the content id that the manifest gives it."""

Link = tuple[Place | None, Place]
"""A file, and before it the one that it builds on."""


def open_chain(store: Store, export: StoredExport, parts: Sequence[FileEntry], sound: set[Link]) -> None:
    """Open each file of a chain, the base first, and hold it against the one that it builds on.

    Args:
        store: Where they lie.
        export: The export.
        parts: The files in its manifest.
        sound: What is known from other exports that share files of the chain, and what they may know from this one.

    Raises:
        VerificationFailed: They are no chain.
        ExportNotFound, StoreUnusable: A file cannot be read.
    """
    with ExitStack() as stack:
        readers = open_parts(store, export, parts, stack)
        places = [(reader.identity, part.name, part.cid) for reader, part in zip(readers, parts, strict=True)]
        links = list(zip([None, *places], places, strict=False))
        unknown = [number for number, link in enumerate(links) if link not in sound]
        wanted = sorted({number for last in unknown for number in (last - 1, last) if number >= 0})

        def opened(number: int) -> Layer:
            layer = Layer(readers[number], parts[number].name)
            layer.identity()
            return layer

        layers = dict(zip(wanted, at_once(opened, wanted, distant=store.refers), strict=True))
        for number in unknown:
            file, before = layers[number], layers.get(number - 1)
            check_link((before, parts[number - 1]) if before else None, (file, parts[number]))
            Disk([before, file] if before else [file]).close()
        sound.update(links[number] for number in unknown if readers[number].identity)
