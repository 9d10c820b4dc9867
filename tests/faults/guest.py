"""A simulated VM whose guest writes before and during every export, and whose bytes are known at each snapshot."""

import hashlib
import random
import threading
from collections.abc import Generator
from contextlib import contextmanager

from hyperexport.simulator import VmHandle

SECTOR = 512
USERS_SNAPSHOT = "before the upgrade"
"""A snapshot that a user took, which nobody but the user may touch."""


class Guest:
    """What goes on inside a VM.

    Args:
        vm: The VM; it has a snapshot of its user's.
        chance: Decides what is written, and where.
    """

    def __init__(self, vm: VmHandle, chance: random.Random) -> None:
        self.vm = vm
        self._chance = chance
        self._capacities = vm.state()["disks"]

    def write(self, *disks: int) -> None:
        """Write a few sectors somewhere on these disks; on the first where none is named."""
        for disk in disks or (0,):
            for _ in range(3):
                place = self._chance.randrange(self._capacities[disk] // SECTOR - 8) * SECTOR
                self.vm.guest_write(disk, place, self._chance.randbytes(SECTOR * self._chance.randint(1, 8)))

    def bytes_now(self) -> list[str]:
        """The SHA-256 of each disk, as the guest sees it now."""
        return [
            hashlib.sha256(self.vm.read_disk(disk, 0, capacity)).hexdigest()
            for disk, capacity in enumerate(self._capacities)
        ]

    @contextmanager
    def at_work(self) -> Generator[list[str]]:
        """Write as soon as the export has taken its snapshot; yields what every disk holds before that."""
        before = self.bytes_now()
        known = {moref for moref, *_ in self.vm.snapshots()}
        over = threading.Event()

        def write_once_frozen() -> None:
            while not over.wait(0.01):
                if {moref for moref, *_ in self.vm.snapshots()} - known:
                    self.write(*range(len(self._capacities)))
                    return

        thread = threading.Thread(target=write_once_frozen)
        thread.start()
        try:
            yield before
        finally:
            over.set()
            thread.join()
