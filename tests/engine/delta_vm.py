"""A VM whose disk is changed and exported as a chain of deltas."""

from typing import Final

from hyperexport.simulator import Simulator
from hyperexport.store.base import StoredExport
from tests.chains import (
    Place,
)

MIB: Final = 1 << 20
SIZE: Final = 6 * MIB + 512 * 3
"""The last grain is not a whole one."""


def change(vcenter: Simulator, content: bytes = b"changed", at: int = MIB) -> None:
    vcenter.vm("db01").guest_write(0, at, content)


def a_chain(vcenter: Simulator, place: Place) -> StoredExport:
    """An export whose first disk has two deltas."""
    for content in (b"", b"one", b"two" * 40_000):
        change(vcenter, content)
        place.export()
    return place.newest()
