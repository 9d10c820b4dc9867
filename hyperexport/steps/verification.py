"""A stored export, read back and proved; what came out is noted in its manifest."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from hyperexport.errors import ExportNotFound
from hyperexport.manifest import FILE_NAME
from hyperexport.options import VerifyMode
from hyperexport.stop import StopSignal
from hyperexport.store.base import Store, StoredExport
from hyperexport.verify import Verification, verify_export

logger = logging.getLogger(__name__)


def verify(store: Store, export: StoredExport, mode: VerifyMode, stop: StopSignal) -> tuple[StoredExport, Verification]:
    """Verify one export. What is wrong is in the result and in the manifest; nothing is raised for it.

    Returns:
        The export with what its manifest now says, and what was found.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be read, which proves nothing either way.
        Interrupted: The run was asked to stop.
    """
    found = verify_export(store, export, deep=mode is VerifyMode.DEEP, stop=stop)
    damage = tuple(str(finding) for finding in found.findings)
    noted = {"verified": datetime.now(UTC), "damage": ()} if found.ok else {"damage": damage}
    export = store.replace_manifest(export, export.manifest.model_copy(update=noted))
    for line in damage:
        logger.error("%s: %s", export, line)
    if found.ok:
        logger.info("%s: verified in %s", export, store.url)
    return export, found


def find_exports(store: Store, wanted: Sequence[str]) -> list[StoredExport]:
    """Find exports as people name them; all of them when none is named.

    Args:
        store: Where to look.
        wanted: Export ids, ``<vm folder>/<export id>``, or paths and URLs that end so.

    Raises:
        ExportNotFound: A name fits no complete export of the store.
    """
    exports = store.exports()
    if not wanted:
        return exports
    return [_find(store, exports, name) for name in wanted]


def _find(store: Store, exports: Sequence[StoredExport], name: str) -> StoredExport:
    end = name.rstrip("/").removesuffix(f"/{FILE_NAME}").split("/")[-2:]
    for export in exports:
        if end == [export.folder, export.export_id] or end[-1:] == [export.export_id] == name.split("/"):
            return export
    raise ExportNotFound(f"{store.url} holds no complete export {name}", fix="See hyperexport list for what it holds")
