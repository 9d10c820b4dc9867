"""Converts one stored export: chooses disks, sees that there is room, writes, proves, and only then names the files."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.convert.libvirt import DiskImageFile, domain_xml
from hyperexport.convert.output_files import Output, writing
from hyperexport.convert.package import package_files, write_ova, write_ovf
from hyperexport.convert.qemu_img import find_qemu_img, write_with_qemu_img
from hyperexport.convert.raw import write_raw
from hyperexport.convert.values import Conversion, ConvertedFile, Target
from hyperexport.errors import ConversionFailed, UsageError
from hyperexport.formats.ova import ova_size
from hyperexport.images.opening import chain_of, open_disk, open_streamed, read_whole
from hyperexport.model.manifest import FileEntry, FileRole, slug
from hyperexport.store.base import Store, StoredExport

_SUFFIXES: Final = {Target.RAW: ".raw", Target.QCOW2: ".qcow2", Target.VHDX: ".vhdx", Target.VMDK: ".vmdk"}
_LARGEST_CONFIGURATION: Final = 16 * MIB
_METADATA: Final = 16 * MIB
"""Bytes of tables that a disk image may have besides the data and one 1,024th of the capacity."""
_VHDX_BLOCK: Final = 32 * MIB

Listener = Callable[[str, int, int], None]
"""Called with a file's name, how many bytes of its work are done, and how many there are."""


def convert_export(
    store: Store,
    export: StoredExport,
    *,
    to: Target,
    into: Path,
    disks: Sequence[int] = (),
    libvirt: bool = False,
    stop: StopSignal,
    progress: Listener | None = None,
    dry_run: bool = False,
) -> Conversion:
    """Make disk images, or a self-contained package, out of an export. The export is not changed.

    Args:
        store: Where the export lies.
        export: Which one.
        to: Into what.
        into: The folder that gets the files; made if it is not there.
        disks: Only the disks with these numbers, from 0 in the VM's order; all if empty. Not for a package.
        libvirt: Also write a libvirt domain definition (``<vm>.xml``); needs raw, qcow2 or vmdk, and all disks.
        stop: Ends it.
        progress: Called with how far it is.
        dry_run: Check everything that can be known beforehand, and write nothing.

    Returns:
        The files that were written, or in a dry run would be.

    Raises:
        UsageError: The arguments do not fit together.
        TargetExists: A file of that name is there already; nothing was written.
        DiskFull: There is not enough room, found out beforehand if possible.
        ToolMissing: qemu-img is needed, and not installed.
        VerificationFailed: A file of the export is damaged; nothing of what was written stays.
        ConversionFailed, ExportNotFound, StoreUnusable, StoreUnreachable: As their names say; nothing stays either.
    """
    began = time.monotonic()
    job = _Conversion(store, export, to, stop, progress or _nobody)
    chosen = _chosen(export, disks, to, libvirt=libvirt)
    if to in {Target.QCOW2, Target.VHDX, Target.VMDK}:
        find_qemu_img()
    if dry_run:
        files, warnings = job.plan(into, chosen, libvirt=libvirt)
    elif to.is_package:
        files, warnings = job.package(into), []
    else:
        files, warnings = job.images(into, chosen, libvirt=libvirt)
    return Conversion(
        export_id=export.export_id,
        vm=export.manifest.vm,
        to=to,
        files=files,
        seconds=time.monotonic() - began,
        warnings=tuple(warnings),
        dry_run=dry_run,
    )


class _Conversion:
    """One conversion in progress."""

    def __init__(self, store: Store, export: StoredExport, to: Target, stop: StopSignal, progress: Listener) -> None:
        self._store = store
        self._export = export
        self._to = to
        self._stop = stop
        self._progress = progress

    def plan(
        self, into: Path, disks: Sequence[FileEntry], *, libvirt: bool
    ) -> tuple[tuple[ConvertedFile, ...], list[str]]:
        """Tell which files would be written, and how large each can become at most; nothing is written."""
        warnings: list[str] = []
        planned: list[ConvertedFile] = []
        folder = into.absolute()
        if self._to.is_package:
            sizes = self._package_sizes()
            planned = [ConvertedFile(path=folder / name, size=size, allocated=size) for name, size in sizes.items()]
        for entry in () if self._to.is_package else disks:
            needed = self._needed(entry)
            size = entry.capacity or needed if self._to is Target.RAW else needed
            path = folder / _image_name(entry, self._to)
            planned.append(ConvertedFile(path=path, size=size, allocated=needed, source=entry.name))
        if libvirt:
            text, warnings = self._domain(folder, disks)
            size = len(text.encode())
            planned.append(ConvertedFile(path=folder / self._domain_name, size=size, allocated=size))
        to_merge = self._to_merge() if self._to.is_package else 0
        needed = sum(file.allocated for file in planned) + to_merge
        Output(into, [file.path.name for file in planned]).check(needed)
        return tuple(planned), warnings

    def _package_sizes(self) -> dict[str, int]:
        """The files of the package, or the OVA, with their bytes."""
        manifest = self._export.manifest
        entries = (entry for name in package_files(self._export) if (entry := manifest.file(name)))
        sizes = {entry.name: sum(part.size for part in chain_of(manifest, entry)) for entry in entries}
        return {self._ova_name: ova_size(sizes.items())} if self._to is Target.OVA else sizes

    @property
    def _ova_name(self) -> str:
        return f"{slug(self._export.manifest.vm.name)}.ova"

    @property
    def _domain_name(self) -> str:
        return f"{slug(self._export.manifest.vm.name)}.xml"

    def _domain(self, folder: Path, disks: Sequence[FileEntry]) -> tuple[str, list[str]]:
        """The libvirt domain that has the images in this folder as its disks, and what differs in it."""
        images = [DiskImageFile(entry, folder / _image_name(entry, self._to), self._to.value) for entry in disks]
        return domain_xml(self._export.manifest, self._configuration(), images)

    def package(self, into: Path) -> tuple[ConvertedFile, ...]:
        """Write the OVF package or the OVA."""
        sizes = self._package_sizes()
        names, total = list(sizes), sum(sizes.values())
        done = 0

        def moved(count: int) -> None:
            nonlocal done
            self._stop.check()
            done += count
            self._progress(names[0], min(done, total), total)

        with Output(into, names) as output:
            output.require(total + self._to_merge())
            if self._to is Target.OVA:
                write_ova(self._store, self._export, output, self._ova_name, stop=self._stop, moved=moved)
            else:
                write_ovf(self._store, self._export, output, stop=self._stop, moved=moved)
            paths = output.publish()
        self._progress(names[0], total, total)
        return tuple(map(_written, paths))

    def _to_merge(self) -> int:
        """Bytes of the disks that are written anew beside the package before they go into it."""
        manifest = self._export.manifest
        chains = (chain_of(manifest, entry) for entry in manifest.disks)
        return sum(part.size for chain in chains if len(chain) > 1 for part in chain)

    def images(
        self, into: Path, disks: Sequence[FileEntry], *, libvirt: bool
    ) -> tuple[tuple[ConvertedFile, ...], list[str]]:
        """Write disk images, and the domain that has them."""
        names = {_image_name(entry, self._to): entry for entry in disks}
        domain = self._domain_name
        with Output(into, [*names, *([domain] if libvirt else [])]) as output:
            text, warnings = self._domain(into.absolute(), disks) if libvirt else ("", [])
            output.require(sum(self._needed(entry) for entry in disks))
            for name, entry in names.items():
                self._image(entry, name, output)
            if libvirt:
                fd = output.create(domain)
                with writing(output.partial(domain)):
                    os.write(fd, text.encode())
            paths = output.publish()
        sources = {name: entry.name for name, entry in names.items()}
        return tuple(_written(path, sources.get(path.name)) for path in paths), warnings

    def _image(self, entry: FileEntry, name: str, output: Output) -> None:
        fd = output.create(name)
        if self._to is Target.RAW:
            with open_streamed(self._store, self._export, entry, stop=self._stop) as source:
                with writing(output.partial(name)):
                    write_raw(source, fd, lambda done: self._progress(name, done, source.size))
                self._progress(name, source.size, source.size)
            return
        with open_disk(self._store, self._export, entry, stop=self._stop, progress=self._progress) as disk:
            write_with_qemu_img(
                disk,
                output.partial(name),
                self._to,
                stop=self._stop,
                progress=lambda done: self._progress(name, min(done, disk.capacity), disk.capacity),
            )
            self._progress(name, disk.capacity, disk.capacity)

    def _needed(self, entry: FileEntry) -> int:
        """Bytes that the image will take at most, by the disk's tables."""
        with open_streamed(self._store, self._export, entry, stop=self._stop) as source:
            disk = source.disk
            if self._to is Target.VHDX:
                blocks = {
                    block
                    for extent in disk.extents()
                    if extent.data
                    for block in range(extent.offset // _VHDX_BLOCK, -(-(extent.offset + extent.length) // _VHDX_BLOCK))
                }
                held = min(len(blocks) * _VHDX_BLOCK, disk.capacity + _VHDX_BLOCK)
            else:
                held = sum(extent.length for extent in disk.extents() if extent.data)
            return held if self._to is Target.RAW else held + disk.capacity // 1024 + _METADATA

    def _configuration(self) -> Mapping[str, Any]:
        """The VM's configuration as the export keeps it.

        Raises:
            ConversionFailed: It keeps none that can be read.
        """
        entry = next((entry for entry in self._export.manifest.files if entry.role is FileRole.CONFIG), None)
        if entry is None:
            raise ConversionFailed(
                f"{self._export} does not keep the VM's configuration, so no domain can be defined from it",
                fix="Leave out --libvirt",
            )
        data = read_whole(self._store, self._export, entry, most=_LARGEST_CONFIGURATION)
        try:
            configuration: object = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConversionFailed(f"{entry.name} of {self._export} is not JSON: {error}") from error
        if not isinstance(configuration, dict):
            raise ConversionFailed(f"{entry.name} of {self._export} is not a VM's configuration")
        return cast("dict[str, Any]", configuration)


def choose_disks(export: StoredExport, numbers: Sequence[int]) -> list[FileEntry]:
    """The export's disks with these numbers, from 0 in the VM's order; all if none is given.

    Raises:
        UsageError: There is no such disk, or none at all.
    """
    disks = export.manifest.disks
    if not disks:
        raise UsageError(f"{export} has no disk")
    for number in numbers:
        if not 0 <= number < len(disks):
            raise UsageError(f"{export} has no disk {number}", fix=f"Its disks are 0 to {len(disks) - 1}")
    return [disks[number] for number in dict.fromkeys(numbers)] if numbers else list(disks)


def _chosen(export: StoredExport, disks: Sequence[int], to: Target, *, libvirt: bool) -> list[FileEntry]:
    if to.is_package and disks:
        raise UsageError(f"an {to.value.upper()} has all disks of the VM", fix="Leave out --disk, or convert to raw")
    if libvirt and to in {Target.OVF, Target.OVA, Target.VHDX}:
        raise UsageError(f"libvirt does not take {to.value}", fix="Use --to qcow2, raw or vmdk with --libvirt")
    if libvirt and disks:
        raise UsageError("a domain has all disks of the VM", fix="Leave out --disk or --libvirt")
    return choose_disks(export, disks)


def _image_name(entry: FileEntry, to: Target) -> str:
    return entry.name.removesuffix(".vmdk") + _SUFFIXES[to]


def _written(path: Path, source: str | None = None) -> ConvertedFile:
    status = path.stat()
    return ConvertedFile(path=path, size=status.st_size, allocated=status.st_blocks * 512, source=source)


def _nobody(_name: str, _done: int, _total: int) -> None:
    """The listener where there is none."""
