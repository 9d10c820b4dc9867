"""The volumes of a VM's disks, and what is on them: paths begin with the volume, as in ``/disk0p2/etc/hosts``."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pydantic import Field

from hyperexport.base.units import SECTOR
from hyperexport.errors import GuestFileNotFound, GuestFilesystemDamaged
from hyperexport.files.filesystems import Filesystem, Kind, Node, find, open_filesystem
from hyperexport.files.libraries import library
from hyperexport.files.window import Readable, Window, tsk_image
from hyperexport.model.vm import Value

logger = logging.getLogger(__name__)

_LVM_LABEL: Final = b"LABELONE"
_MOST_ENTRIES: Final = 100_000
"""Of one folder: a damaged filesystem may pretend to any number."""


class VolumeInfo(Value):
    """A volume of the guest."""

    name: str = Field(description="How paths name it, such as disk0p2 or vg0-root.")
    filesystem: str | None = Field(description="Such as ext4; None where it cannot be read.")
    size: int = Field(description="Bytes.")


class GuestEntry(Value):
    """Something on a volume of the guest."""

    path: str
    kind: Kind
    size: int = Field(description="Bytes of a file's content.")
    modified: datetime | None = None
    target: str | None = Field(default=None, description="What a symbolic link says.")


@dataclass
class _Volume:
    name: str
    window: Window
    keep: list[Any] = field(default_factory=list[Any])
    """What the window's bytes come through, kept alive."""
    filesystem: Filesystem | None = None
    opened: bool = False


class Guest:
    """The volumes of some disks; not for several threads."""

    def __init__(self, volumes: Sequence[_Volume]) -> None:
        self._volumes = {volume.name: volume for volume in volumes}

    def volumes(self) -> list[VolumeInfo]:
        """All volumes, those too that cannot be read.

        Raises:
            VerificationFailed: A disk is damaged where a volume begins.
        """
        found: list[VolumeInfo] = []
        for volume in self._volumes.values():
            filesystem = self._open(volume)
            kind = filesystem.kind if filesystem else None
            found.append(VolumeInfo(name=volume.name, filesystem=kind, size=volume.window.capacity))
        return found

    def list(self, path: str) -> list[GuestEntry]:
        """What a folder holds, by name; of anything else, itself.

        Raises:
            GuestFileNotFound: There is nothing of that path.
            VerificationFailed: The disk is damaged on the way.
        """
        filesystem, node, path = self.find(path)
        if node.kind is not Kind.FOLDER:
            return [_entry(filesystem, node, path)]
        nodes: list[Node] = []
        for child in filesystem.children(node):
            nodes.append(child)
            if len(nodes) >= _MOST_ENTRIES:
                break
        return [_entry(filesystem, child, f"{path}/{child.name}") for child in sorted(nodes, key=lambda one: one.name)]

    def read(self, path: str) -> Iterator[bytes]:
        """A file's content in order; the errors are those of :meth:`list`."""
        filesystem, node, _ = self.find(path)
        if node.kind is not Kind.FILE:
            raise GuestFileNotFound(f"{path} is a {node.kind.value}, not a file")
        yield from filesystem.chunks(node)

    def find(self, path: str) -> tuple[Filesystem, Node, str]:
        """What a path names, the filesystem that it is on, and the path without what is superfluous in it.

        Raises:
            GuestFileNotFound: There is nothing of that path.
        """
        parts = [part for part in path.split("/") if part not in {"", "."}]
        volume = self._volumes.get(parts[0]) if parts else None
        if volume is None:
            raise GuestFileNotFound(
                f"{path} is on none of the volumes {', '.join(self._volumes) or '(there are none)'}",
                fix="Begin the path with a volume, as in /disk0p1/etc",
            )
        filesystem = self._open(volume)
        if filesystem is None:
            raise GuestFileNotFound(f"{volume.name} has no filesystem that can be read: encrypted, swap, or unknown")
        return filesystem, find(filesystem, parts[1:]), "/" + "/".join(parts)

    def _open(self, volume: _Volume) -> Filesystem | None:
        if not volume.opened:
            volume.filesystem = open_filesystem(volume.window)
            volume.opened = True
        return volume.filesystem


def open_guest(disks: Sequence[Readable]) -> Guest:
    """Find the volumes of a VM's disks: partitions (GPT, MBR), logical volumes, or a filesystem on the whole disk.

    Raises:
        ToolMissing: The libraries are not installed.
        VerificationFailed: A disk is damaged where its partitions are listed.
    """
    volumes: list[_Volume] = []
    physical: list[Window] = []
    for number, disk in enumerate(disks):
        whole = Window(disk, 0, disk.capacity)
        parts = _partitions(whole) or [(0, disk.capacity)]
        for index, (offset, length) in enumerate(parts, start=1):
            window = Window(disk, offset, length)
            if _is_physical_volume(window):
                physical.append(window)
                continue
            name = f"disk{number}" if (offset, length) == (0, disk.capacity) else f"disk{number}p{index}"
            volumes.append(_Volume(name, window))
    return Guest([*volumes, *_logical_volumes(physical)])


def _partitions(whole: Window) -> list[tuple[int, int]]:
    """Offset and length in bytes of each partition; none where there is no partition table."""
    pytsk3 = library("pytsk3")
    with whole.raising():
        if whole.read_at(3, 8) == b"NTFS    " or whole.read_at(82, 8).startswith(b"FAT32"):
            return []  # a boot sector that looks like a partition table
        try:
            table = pytsk3.Volume_Info(tsk_image(pytsk3, whole))
        except OSError:
            if whole.error is not None:
                raise
            return []
        size = int(table.info.block_size)
        return [
            (int(part.start) * size, int(part.len) * size)
            for part in table
            if part.flags == pytsk3.TSK_VS_PART_FLAG_ALLOC
        ]


def _is_physical_volume(window: Window) -> bool:
    with window.raising():
        head = window.read_at(0, 4 * SECTOR)
    return any(head[at : at + 8] == _LVM_LABEL for at in range(0, len(head), SECTOR))


class _Logical:
    """A logical volume as a disk."""

    def __init__(self, volume: Any, windows: list[Window]) -> None:
        self._volume = volume
        self._windows = windows
        self.capacity = int(volume.size)

    def read(self, offset: int, length: int) -> bytes:
        try:
            return self._volume.read_buffer_at_offset(length, offset)
        except OSError as error:
            damage = next((window.error for window in self._windows if window.error), None)
            raise damage or GuestFilesystemDamaged(f"a logical volume cannot be read at byte {offset}") from error


def _logical_volumes(physical: list[Window]) -> list[_Volume]:
    """The logical volumes on these physical ones, group by group."""
    if not physical:
        return []
    pyvslvm = library("pyvslvm")
    groups: dict[str, list[Window]] = {}
    found: list[_Volume] = []
    for number, window in enumerate(physical):
        try:
            with window.raising():
                handle = pyvslvm.handle()
                handle.open_file_object(window)
                groups.setdefault(handle.get_volume_group().identifier, []).append(window)
        except GuestFilesystemDamaged as error:
            logger.warning("the volumes on a physical volume of LVM are not shown: %s", error)
            found.append(_Volume(f"lvm{number}", window, opened=True))
    for windows in groups.values():
        with windows[0].raising():
            found += _volumes_of(pyvslvm.handle(), windows)
    return found


def _volumes_of(handle: Any, windows: list[Window]) -> list[_Volume]:
    """The logical volumes of one group, which lies on these windows."""
    handle.open_file_object(windows[0])
    group = handle.get_volume_group()
    order = [volume.identifier.replace("-", "") for volume in group.physical_volumes]
    ordered = sorted(windows, key=lambda window: _position(order, window))
    handle.open_physical_volume_files_as_file_objects(ordered)
    group = handle.get_volume_group()  # anew: the one from before knows nothing of the files
    found: list[_Volume] = []
    for volume in group.logical_volumes:
        logical = _Logical(volume, ordered)
        found.append(_Volume(f"{group.name}-{volume.name}", Window(logical, 0, logical.capacity), [handle, group]))
    return found


def _position(order: list[str], window: Window) -> int:
    """Which of the group's physical volumes the window is, by the uuid that its label gives."""
    head = window.read_at(0, 5 * SECTOR)
    label = next(at for at in range(0, len(head), SECTOR) if head[at : at + 8] == _LVM_LABEL)
    begin = label + int.from_bytes(head[label + 20 : label + 24], "little")
    uuid = head[begin : begin + 32].decode("ascii", "replace")
    return order.index(uuid) if uuid in order else len(order)


def _entry(filesystem: Filesystem, node: Node, path: str) -> GuestEntry:
    target = filesystem.target(node) if node.kind is Kind.LINK else None
    return GuestEntry(path=path, kind=node.kind, size=node.size, modified=node.modified, target=target)
