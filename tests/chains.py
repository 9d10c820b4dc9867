"""Stores of exports whose disks are chains, and what the guest, our reader and qemu-img say of them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.images.opening import open_disks
from hyperexport.model.manifest import ExportManifest
from hyperexport.results import ExportResult
from hyperexport.simulator import Simulator
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_servers import S3Server

OPTIONS: dict[str, Any] = {"snapshot": True, "incremental": True, "max_chain": 30}


class Place:
    """A store, and how to export into it."""

    def __init__(self, store: Store, options: dict[str, Any]) -> None:
        self.store, self.options = store, options

    def export(self, vm: str = "db01", **options: Any) -> ExportResult:
        return hyperexport.export(vm, **{**OPTIONS, **self.options, **options})

    def newest(self) -> StoredExport:
        return self.store.exports()[0]

    @property
    def where(self) -> dict[str, Any]:
        """The options of a command that only reads the store."""
        return {name: self.options[name] for name in ("output", "upload", "keep_local", "s3") if name in self.options}


def folder_place(root: Path) -> Place:
    return Place(LocalStore(root), {"output": root})


def s3_place(server: S3Server, bucket: str) -> Place:
    options = {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3": settings(server)}
    return Place(open_store(server, bucket, "vms"), options)


def guest(vcenter: Simulator, name: str = "db01") -> list[bytes]:
    """What the guest has on each disk now."""
    vm = vcenter.vm(name)
    return [vm.read_disk(index, 0, capacity) for index, capacity in enumerate(vm.state()["disks"])]


def stored(store: Store, export: StoredExport) -> list[bytes]:
    """What an export has on each disk."""
    with open_disks(store, export, stop=StopSignal()) as disks:
        return [disk.read(0, disk.capacity) for disk in disks]


def differing_by_qemu(store: LocalStore, export: StoredExport, contents: Sequence[bytes], scratch: Path) -> list[str]:
    """The disks that qemu-img, which reads the chain out of the export's own folder, finds to be another content."""
    wrong: list[str] = []
    for entry, content in zip(export.manifest.disks, contents, strict=True):
        raw = scratch / "guest.raw"
        raw.write_bytes(content)
        source = Path(store.url) / str(export) / entry.name
        compared = subprocess.run(
            ["qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, source], capture_output=True, text=True, check=False
        )
        if compared.returncode:
            wrong.append(f"{entry.name}: {compared.stdout}{compared.stderr}")
    return wrong


def written(manifest: ExportManifest) -> int:
    """Bytes of disks that the export itself wrote."""
    own = (e for e in manifest.stored_disks if (e.written_as or "").startswith(manifest.export_id))
    return sum(entry.size for entry in own)


def rot(path: Path, at: int | None = None) -> None:
    """Flip a bit of a file, in place: every name of it sees that."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def files_of(store: Store, export: StoredExport, disk: int = 0) -> list[Path]:
    """The files of a disk in a folder, the base first."""
    return [Path(store.url) / str(export) / part.name for part in export.manifest.parts(export.manifest.disks[disk])]
