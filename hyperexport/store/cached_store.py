"""What a store holds, for those who look again and again: only what changed since the last look is read anew."""

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from hyperexport.errors import StoreUnusable
from hyperexport.store.base import Store
from hyperexport.store.listing import StoreListing, damaged_by
from hyperexport.store.records import Drills, proved_drills

PROVED_FOR: Final = 3600.0
"""Seconds after which a VM's manifests are read and proved again, though no mark changed."""


class _Known(NamedTuple):
    """What was read of one VM's folder."""

    manifest_versions: Mapping[str, str]
    listing: StoreListing
    drills: Drills
    read: float
    """On the monotonic clock."""


class CachedStore:
    """The exports of one store, remembered by VM.

    A VM's manifests are read again when one of them was changed, added or removed (see
    :meth:`hyperexport.store.base.Store.manifest_versions`), and after :data:`PROVED_FOR` in any case: an ETag does not
    change when an object rots.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.store: Final = store
        self._known: dict[str, _Known] = {}

    def look(self) -> dict[str, StoreListing]:
        """Look at the store as it is now.

        Returns:
            What each VM's folder holds, by its name.

        Raises:
            StoreUnusable, StoreUnreachable: It could not be listed; there is no telling what is there.
        """
        versions: dict[str, dict[str, str]] = {}
        for (folder, export_id), version in self.store.manifest_versions().items():
            versions.setdefault(folder, {})[export_id] = version
        now = time.monotonic()
        known: dict[str, _Known] = {}
        for folder, seen in versions.items():
            before = self._known.get(folder)
            fresh = before is not None and before.manifest_versions == seen and now - before.read < PROVED_FOR
            known[folder] = before if before and fresh else _Known(seen, *self._read(folder), now)
        self._known = known
        return {folder: found.listing for folder, found in known.items()}

    @property
    def drills(self) -> Drills:
        """The proved drills of the exports, as the last look found them."""
        return {place: found for known in self._known.values() for place, found in known.drills.items()}

    def _read(self, folder: str) -> tuple[StoreListing, Drills]:
        try:
            listing = self.store.listing(folder)
            return listing, proved_drills(self.store.records(listing))
        except StoreUnusable as error:
            return StoreListing(damaged=(damaged_by(error, folder),)), {}
