"""What a store holds, for whoever looks again and again: only what changed since the last look is read anew."""

from typing import Final

from hyperexport.store.base import Store, StoredExport


class Catalogue:
    """The exports of one store, remembered by VM.

    A VM's manifests are read again when the mark of one of them changed, or one came or went; see
    :meth:`hyperexport.store.base.Store.marks`. Not for the proof of anything: a manifest that rots under an unchanged
    mark is seen by a verification, not here.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.store: Final = store
        self._known: dict[str, tuple[dict[str, str], list[StoredExport]]] = {}

    def look(self) -> tuple[dict[str, list[StoredExport]], list[str]]:
        """Look at the store as it is now.

        Returns:
            The complete exports of each VM's folder, newest first; and ``folder/export-id`` of those that cannot be
            read.

        Raises:
            StoreUnusable, StoreUnreachable: It could not be listed; there is no telling what is there.
        """
        marks: dict[str, dict[str, str]] = {}
        for (folder, export_id), mark in self.store.marks().items():
            marks.setdefault(folder, {})[export_id] = mark
        known: dict[str, tuple[dict[str, str], list[StoredExport]]] = {}
        for folder, now in marks.items():
            before = self._known.get(folder)
            known[folder] = before if before and before[0] == now else (now, self.store.exports(folder))
        self._known = known
        unreadable: list[str] = []
        for folder, (now, exports) in known.items():
            read = {export.export_id for export in exports}
            unreadable += [f"{folder}/{export_id}" for export_id in now if export_id not in read]
        return {folder: exports for folder, (_, exports) in known.items() if exports}, sorted(unreadable)
