"""VMs of which only the changed blocks are read, and how they are changed and compared."""

import random
from pathlib import Path

from hyperexport.formats.vmdk import GRAIN
from hyperexport.model.manifest import FileEntry
from hyperexport.results import ExportResult
from hyperexport.simulator import Simulator
from hyperexport.store.local import LocalStore
from tests.chains import Place, differing_by_qemu, guest, stored

MIB = 1 << 20
SIZE = 4 * MIB + 1536
"""The last grain is not a whole one."""
OFF, ON = "off", "on"


def change(vcenter: Simulator, name: str, seed: str = "1") -> None:
    """Write at random: parts of grains, runs of grains, zeros over data, data over zeros, the first and last bytes."""
    chance, vm = random.Random(seed), vcenter.vm(name)
    vm.guest_write(0, 0, chance.randbytes(3))
    vm.guest_write(0, SIZE - 700, chance.randbytes(700))
    vm.guest_write(0, 7 * GRAIN, bytes(2 * GRAIN))
    vm.guest_write(0, 30 * GRAIN + 5, chance.randbytes(3 * GRAIN))
    for _ in range(5):
        vm.guest_write(0, chance.randrange(SIZE - 600), chance.randbytes(600))


def disk_of(result: ExportResult) -> FileEntry:
    assert result.manifest
    return result.manifest.disks[0]


def is_the_guests(vcenter: Simulator, place: Place, name: str, scratch: Path) -> None:
    newest, contents = place.newest(), guest(vcenter, name)
    assert stored(place.store, newest) == contents
    assert isinstance(place.store, LocalStore)
    assert differing_by_qemu(place.store, newest, contents, scratch) == []
