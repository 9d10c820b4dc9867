"""What the tests of flows share: a running simulator's environment, and the proof that an export equals its guest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperexport.base.stop import StopSignal
from hyperexport.images.opening import open_disks
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.progress import Progress, Stage, subscribed
from hyperexport.simulator import Simulator
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore


def exports_in(root: Path) -> list[StoredExport]:
    """What a local store holds."""
    return LocalStore(root).exports()


def guest_bytes(simulator: Simulator, vm: str) -> list[bytes]:
    """The content of each disk of a VM, as its guest sees it now."""
    handle = simulator.vm(vm)
    return [handle.read_disk(index, 0, capacity) for index, capacity in enumerate(handle.state()["disks"])]


def exported_bytes(store: Store, export: StoredExport) -> list[bytes]:
    """The content of each disk of an export, as a guest would see it after a restore."""
    with open_disks(store, export, stop=StopSignal()) as disks:
        return [disk.read(0, disk.capacity) for disk in disks]


@contextmanager
def while_transferring(action) -> Iterator[None]:
    """Do something once, as soon as the first bytes of a disk have come."""
    done = []

    def on_progress(progress: Progress) -> None:
        if progress.stage is Stage.TRANSFER and progress.moved and not done:
            done.append(True)
            action()

    with subscribed(on_progress):
        yield
    assert done, "the transfer was never seen to begin"


def leftovers(simulator: Simulator, root: Path) -> list[str]:
    """Whatever a run should not have left: snapshots of ours, leases, sessions, half-written exports."""
    found = [f"lease {lease}" for lease in simulator.leases()]
    found += [f"session {session}" for session in simulator.sessions()]
    for vm in simulator.vms():
        ours = [name for _, name, description, _ in vm.snapshots() if "[hyperexport" in description]
        found += [f"snapshot {name} of {vm.name}" for name in ours]
    if root.exists():
        found += [str(path) for path in root.rglob("*.partial")]
    return found


def changed(manifest: ExportManifest) -> dict[str, bool]:
    """For each disk, whether it was transferred."""
    return {entry.disk_label or entry.name: entry.transferred for entry in manifest.disks}
