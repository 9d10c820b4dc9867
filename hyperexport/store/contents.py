"""What a store holds, as ``hyperexport list`` shows it.

Apart from ``results.py``, which knows every kind of result: a listing needs no plan and no verification.
"""

from datetime import datetime

from pydantic import Field

from hyperexport.model.content import added_bytes, shared_with, stored_bytes
from hyperexport.model.damaged import DamagedExport
from hyperexport.model.vm import Value
from hyperexport.store.base import StoredExport


class StoreContents(Value):
    """What a store holds."""

    store: str = Field(description="The store, as a person names it.")
    exports: tuple[StoredExport, ...] = Field(description="The complete and proved ones, newest first.")
    damaged: tuple[DamagedExport, ...] = Field(
        default=(), description="Damaged or unreadable entries, with the reason."
    )
    drilled: dict[str, datetime] = Field(
        default_factory=dict[str, datetime],
        description="When an export last passed a restore drill, by `<vm folder>/<export id>`.",
    )

    @property
    def stored_bytes(self) -> int:
        """Bytes that all of them take, what they share counted once."""
        return stored_bytes((export.folder, export.manifest) for export in self.exports)

    @property
    def added_bytes(self) -> dict[str, int]:
        """Bytes that each adds to the older ones, by ``<vm folder>/<export id>``; together :attr:`stored_bytes`."""
        return added_bytes((export.folder, export.manifest) for export in self.exports)

    @property
    def shared_with(self) -> dict[str, tuple[str, ...]]:
        """For each export the others that share bytes with it, by ``<vm folder>/<export id>``."""
        return shared_with((export.folder, export.manifest) for export in self.exports)
