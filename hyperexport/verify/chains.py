"""A disk of several files, opened as a reader opens it; imported only where an export has one."""

from collections.abc import Sequence
from contextlib import ExitStack

from hyperexport.images.disk import Disk
from hyperexport.images.layer import Layer
from hyperexport.images.opening import check_chain
from hyperexport.model.manifest import FileEntry
from hyperexport.store.base import Store, StoredExport


def open_chain(store: Store, export: StoredExport, parts: Sequence[FileEntry]) -> None:
    """Open each file of a chain, the base first, and hold it against the one that it builds on.

    Raises:
        VerificationFailed: They are no chain.
        ExportNotFound, StoreUnusable: A file cannot be read.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(store.open(export, part.name)) for part in parts]
        layers = [Layer(reader, part.name) for reader, part in zip(readers, parts, strict=True)]
        check_chain(layers, parts)
        Disk(layers).close()
