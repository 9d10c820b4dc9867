"""Whether a stored file is what its manifest says, asked before it is let stand for bytes that are not kept again."""

import hashlib
import logging

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ExportNotFound, StoreUnusable
from hyperexport.model.manifest import FileEntry
from hyperexport.options.declaring import VerifyMode
from hyperexport.store.base import Store, StoredExport

logger = logging.getLogger(__name__)


def find_damage(store: Store, export: StoredExport, entry: FileEntry, *, mode: VerifyMode, stop: StopSignal) -> str:
    """Say why a file cannot be relied on.

    Args:
        store: Where it is.
        export: The export that it belongs to.
        entry: What the manifest says of it.
        mode: How much proof is asked for: off takes the manifest's word; on reads a local file, and in S3 compares
            the server's own checksum; deep reads it wherever it is.
        stop: Ends the reading.

    Returns:
        What is wrong, as the end of a sentence about the file; empty where nothing is.

    Raises:
        Interrupted: The run was asked to stop.
    """
    if mode is VerifyMode.OFF:
        return ""
    try:
        if mode is VerifyMode.ON and server_confirms(store, export, entry):
            return ""
        digest = hashlib.sha256()
        with store.open(export, entry.name) as reader:
            for chunk in reader.chunks():
                stop.check()
                digest.update(chunk)
    except (ExportNotFound, StoreUnusable) as error:
        return f"cannot be read ({error.what})"
    return "" if digest.hexdigest() == entry.sha256 else "is not what its manifest says: its SHA-256 differs"


def server_confirms(store: Store, export: StoredExport, entry: FileEntry) -> bool:
    """Tell whether the store's server keeps the checksum of the file that it acknowledged when it was written.

    Raises:
        ExportNotFound, StoreUnusable: The file is not there, or the server does not let it be looked at.
    """
    return bool(entry.checksum) and store.checksum(export, entry.name) == entry.checksum
