"""Whether a stored file is what its manifest says, asked before it is let stand for bytes that are not kept again."""

import hashlib
import logging

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ExportNotFound, StoreUnusable
from hyperexport.model.manifest import FileEntry
from hyperexport.options.groups import VerifyMode
from hyperexport.store.base import Store, StoredExport

logger = logging.getLogger(__name__)


def is_proven(store: Store, export: StoredExport, entry: FileEntry, *, mode: VerifyMode, stop: StopSignal) -> bool:
    """Tell whether a file may be relied on.

    Args:
        store: Where it is.
        export: The export that it belongs to.
        entry: What the manifest says of it.
        mode: How much proof is asked for: off takes the manifest's word; on reads a local file, and in S3 compares
            the server's own checksum; deep reads it wherever it is.
        stop: Ends the reading.

    Raises:
        Interrupted: The run was asked to stop.
    """
    if mode is VerifyMode.OFF:
        return True
    try:
        if mode is VerifyMode.ON and entry.checksum and store.checksum(export, entry.name) == entry.checksum:
            return True
        digest = hashlib.sha256()
        with store.open(export, entry.name) as reader:
            for chunk in reader.chunks():
                stop.check()
                digest.update(chunk)
    except (ExportNotFound, StoreUnusable) as error:
        logger.warning("%s of %s cannot be read: %s", entry.name, export, error)
        return False
    return digest.hexdigest() == entry.sha256
