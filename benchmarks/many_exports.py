"""A store of 1,000 exports: seconds and memory of list, of planning the next export, and of planning a cleanup.

    python -m benchmarks.many_exports [EXPORTS] [--vms N]

Each action runs in a process of its own, as a command does; the memory is what it takes beyond its imports. The exports
are of real form (two disks, one of them a chain of up to 30 deltas, each with its tags), with files of a few bytes.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.harness import Reached, machine, save, workspace
from hyperexport.base.units import MIB
from hyperexport.model.manifest import (
    TAGS_SUFFIX,
    ExportKind,
    ExportManifest,
    FileEntry,
    FileRole,
    TransferStatistics,
    vm_folder,
)
from hyperexport.model.marks import VerifiedMark
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import VmRef
from hyperexport.options.groups import Cleanup
from hyperexport.steps.cleanup import plan_store_cleanup
from hyperexport.steps.plan import newest_with_problem
from hyperexport.store.base import Staging, StoredExport
from hyperexport.store.contents import StoreContents
from hyperexport.store.local import LocalStore

CHAIN = 30
KEEP = Cleanup(enabled=True, max_count=7, keep_daily=7, keep_weekly=4, keep_monthly=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exports", type=int, nargs="?", default=1000)
    parser.add_argument("--vms", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--act", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.act:
        act(LocalStore(Path(options.act[1])), options.act[0])
        return
    with workspace() as folder:
        make_store(LocalStore(folder), options.exports, options.vms)
        figures: dict[str, Any] = {}
        for name in ACTIONS:
            command = [sys.executable, "-m", "benchmarks.many_exports", "--act", name, str(folder)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[name] = json.loads(done.stdout)
            print(
                f"{name}: {figures[name]['seconds']:.2f} s, {figures[name]['processor']:.2f} s of processor, ", end=""
            )
            print(f"{figures[name]['mib']:.0f} MiB")
    print(f"load {machine()['load']}")
    reached = [
        Reached(f"{name}, {options.exports} exports", "shown", f"{one['seconds']:.2f} s, {one['mib']:.0f} MiB", None)
        for name, one in figures.items()
    ]
    save(options.json, "many_exports", figures, reached)


def act(store: LocalStore, name: str) -> None:
    """Do it once, and print what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, processor = time.perf_counter(), time.process_time()
    ACTIONS[name](store)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB
    print(json.dumps({"seconds": seconds, "processor": processor, "mib": mib}))


def list_all(store: LocalStore) -> None:
    found = store.listing()
    contents = StoreContents(store=store.url, exports=found.exports, damaged=found.damaged)
    assert contents.stored_bytes
    assert len(contents.added_bytes) == len(found.exports)
    assert len(contents.shared_with) == len(found.exports)


def plan_next(store: LocalStore) -> None:
    folder = store.folders()[0]
    base, problem = newest_with_problem(store, store.listing(folder))
    assert base is not None
    assert problem is None, problem


def plan_cleanup(store: LocalStore) -> None:
    assert plan_store_cleanup(store, KEEP).to_delete


ACTIONS: dict[str, Callable[[LocalStore], None]] = {
    "list": list_all,
    "plan of the next export": plan_next,
    "plan of a cleanup": plan_cleanup,
}


def make_store(store: LocalStore, exports: int, vms: int) -> None:
    """Give each VM as many exports, one a day."""
    now = datetime.now(UTC)
    for number in range(vms):
        vm = VmRef(
            moref=f"vm-{number}",
            name=f"vm{number:03d}",
            path=f"/DC0/vm/vm{number:03d}",
            instance_uuid=f"{number:08x}-0000-0000-0000-000000000000",
        )
        earlier: list[StoredExport] = []
        for day in range(exports // vms, 0, -1):
            earlier.append(publish(store, vm, now - timedelta(days=day), earlier))


def publish(store: LocalStore, vm: VmRef, started: datetime, earlier: list[StoredExport]) -> StoredExport:
    """One export whose first disk builds on those before it."""
    export_id = f"{started:%Y%m%dT%H%M%SZ}-{len(earlier):04x}"
    owner = Owner.of_this_process(run="benchmark", vcenter="vc", vm=vm.instance_uuid)
    chain = list(earlier[-1].manifest.parts(earlier[-1].manifest.disks[0])) if earlier else []
    if len(chain) > CHAIN:
        chain = []
    with store.stage(vm_folder(vm), export_id, owner) as staging:
        bases: list[FileEntry] = []
        for part in chain:
            name = part.name if part.role is FileRole.BASE else f"base-2000-{earlier[-1].export_id}.vmdk"
            linked = staging.reuse(earlier[-1], part, name)
            assert linked
            bases.append(linked.model_copy(update={"role": FileRole.BASE, "chain": ()}))
        new = _file(staging, f"{vm.name}-disk-0.vmdk", export_id, FileRole.DISK)
        top = new.model_copy(update={"chain": tuple(base.name for base in bases)})
        other = _file(staging, f"{vm.name}-disk-1.vmdk", export_id, FileRole.DISK)
        tags = [_file(staging, disk.name + TAGS_SUFFIX, export_id, FileRole.TAGS) for disk in (top, other)]
        descriptor = _file(staging, f"{vm.name}.ovf", export_id, FileRole.DESCRIPTOR)
        manifest = ExportManifest(
            tool_version="0",
            export_id=export_id,
            kind=ExportKind.INCREMENTAL if bases else ExportKind.FULL,
            reason="benchmark",
            last_full=earlier[0].export_id if earlier else export_id,
            vm=vm,
            vcenter="vc.example.com",
            run="benchmark",
            started=started,
            finished=started + timedelta(minutes=5),
            predecessors=tuple(one.export_id for one in reversed(earlier)),
            options={},
            snapshot=None,
            format="ovf",
            files=(*bases, top, other, *tags, descriptor),
            transfer=TransferStatistics(seconds=1, bytes_transferred=1),
        )
        published = staging.publish(manifest)
    return store.write_mark(published, VerifiedMark(export_id=export_id, verified=started, seconds=1))


def _file(staging: Staging, name: str, export_id: str, role: FileRole) -> FileEntry:
    data = f"{export_id}/{name}".encode()
    staging.put(name, data)
    return FileEntry(
        name=name,
        role=role,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        capacity=1 << 40 if role is FileRole.DISK else None,
        written_as=f"{export_id}/{name}",
        disk_key=2000 if role is FileRole.DISK else None,
    )


if __name__ == "__main__":
    main()
