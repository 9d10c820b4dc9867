"""One filesystem in a window of a disk, read by the library that knows it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from hyperexport.base.units import MIB
from hyperexport.errors import GuestFileNotFound, GuestFilesystemDamaged
from hyperexport.files.libraries import library
from hyperexport.files.window import Window, tsk_image

_CHUNK: Final = MIB
_XFS_MAGIC: Final = b"XFSB"
_TSK_NAMES: Final = (
    "ext2",
    "ext3",
    "ext4",
    "ntfs",
    "fat12",
    "fat16",
    "fat32",
    "exfat",
    "iso9660",
    "hfs",
    "ffs1",
    "ffs2",
)
_NTFS_OWN: Final = 24
"""The first records of an NTFS are its own: $MFT, $LogFile, $Extend and the like."""


class Kind(StrEnum):
    """What something in a guest's folder is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or other entry of a guest's filesystem."""

    name: str
    kind: Kind
    size: int
    modified: datetime | None
    inode: int
    handle: Any
    """The library's own object."""


class Filesystem(Protocol):
    """What can be asked of a filesystem; not for several threads."""

    kind: str

    def root(self) -> Node:
        """The root folder of the filesystem."""
        ...

    def children(self, folder: Node) -> Iterator[Node]:
        """What a folder holds, without itself and its parent."""
        ...

    def chunks(self, file: Node) -> Iterator[bytes]:
        """A file's content in order."""
        ...

    def target(self, link: Node) -> str:
        """What a symbolic link says."""
        ...


def open_filesystem(window: Window) -> Filesystem | None:
    """Open the filesystem that fills the window; None where there is none that is known.

    Raises:
        VerificationFailed: The disk is damaged there.
        ToolMissing: The library is not installed.
    """
    with window.raising():
        if window.read_at(0, 4) == _XFS_MAGIC:
            return _Xfs(window)
        pytsk3 = library("pytsk3")
        try:
            return _Tsk(pytsk3, pytsk3.FS_Info(tsk_image(pytsk3, window)), window)
        except OSError:
            if window.error is not None:
                raise
            return None


class _Tsk:
    """A filesystem that The Sleuth Kit reads."""

    def __init__(self, pytsk3: Any, filesystem: Any, window: Window) -> None:
        self._tsk = pytsk3
        self._fs = filesystem
        self._window = window
        names = {int(getattr(pytsk3, f"TSK_FS_TYPE_{name.upper()}")): name for name in _TSK_NAMES}
        self.kind = names.get(int(filesystem.info.ftype), "unknown")
        self._kinds = {
            pytsk3.TSK_FS_META_TYPE_REG: Kind.FILE,
            pytsk3.TSK_FS_META_TYPE_DIR: Kind.FOLDER,
            pytsk3.TSK_FS_META_TYPE_LNK: Kind.LINK,
        }

    def root(self) -> Node:
        with self._window.raising():
            return self._node(self._fs.open_dir("/").info.fs_file, "")

    def children(self, folder: Node) -> Iterator[Node]:
        with self._window.raising():
            found = list(self._fs.open_dir(inode=folder.inode))
        for entry in found:
            name = entry.info.name
            if name is None or name.flags == self._tsk.TSK_FS_NAME_FLAG_UNALLOC or entry.info.meta is None:
                continue  # deleted
            text = bytes(name.name).decode("utf-8", "replace")
            if text not in {".", ".."} and not self._is_internal(entry.info.meta):
                yield self._node(entry.info, text)

    def chunks(self, file: Node) -> Iterator[bytes]:
        with self._window.raising():
            opened = self._fs.open_meta(inode=file.inode)
        offset = 0
        while offset < file.size:
            with self._window.raising():
                chunk = opened.read_random(offset, min(_CHUNK, file.size - offset))
            if not chunk:
                raise GuestFilesystemDamaged(f"the guest's file {file.name} ends after {offset} of {file.size} bytes")
            offset += len(chunk)
            yield chunk

    def target(self, link: Node) -> str:
        with self._window.raising():
            said = self._fs.open_meta(inode=link.inode).info.meta.link
        return bytes(said).decode("utf-8", "replace") if isinstance(said, bytes) else str(said or "")

    def _is_internal(self, meta: Any) -> bool:
        """Whether it is the filesystem's own, or made up by the library, and no file of the guest's."""
        virtual = {self._tsk.TSK_FS_META_TYPE_VIRT, self._tsk.TSK_FS_META_TYPE_VIRT_DIR}
        return meta.type in virtual or (self.kind == "ntfs" and int(meta.addr) < _NTFS_OWN)

    def _node(self, info: Any, name: str) -> Node:
        meta = info.meta
        modified = datetime.fromtimestamp(meta.mtime, UTC) if meta.mtime > 0 else None
        kind = self._kinds.get(meta.type, Kind.OTHER)
        return Node(name, kind, max(int(meta.size), 0), modified, int(meta.addr), None)


class _Xfs:
    """XFS, which The Sleuth Kit does not read."""

    kind = "xfs"

    def __init__(self, window: Window) -> None:
        self._window = window
        self._volume = library("pyfsxfs").volume()
        with window.raising():
            self._volume.open_file_object(window)

    def root(self) -> Node:
        with self._window.raising():
            return self._node(self._volume.get_root_directory(), "")

    def children(self, folder: Node) -> Iterator[Node]:
        with self._window.raising():
            found = [folder.handle.get_sub_file_entry(at) for at in range(folder.handle.number_of_sub_file_entries)]
        for entry in found:
            if entry.name not in {".", ".."}:
                yield self._node(entry, entry.name or "")

    def chunks(self, file: Node) -> Iterator[bytes]:
        offset = 0
        while offset < file.size:
            with self._window.raising():
                chunk = file.handle.read_buffer_at_offset(min(_CHUNK, file.size - offset), offset)
            if not chunk:
                raise GuestFilesystemDamaged(f"the guest's file {file.name} ends after {offset} of {file.size} bytes")
            offset += len(chunk)
            yield chunk

    def target(self, link: Node) -> str:
        with self._window.raising():
            return link.handle.symbolic_link_target or ""

    def _node(self, entry: Any, name: str) -> Node:
        kinds = {0x8: Kind.FILE, 0x4: Kind.FOLDER, 0xA: Kind.LINK}
        kind = kinds.get(entry.file_mode >> 12, Kind.OTHER)
        modified = entry.modification_time
        moment = modified.replace(tzinfo=UTC) if modified is not None else None
        return Node(name, kind, entry.size if kind is Kind.FILE else 0, moment, entry.inode_number, entry)


def find(filesystem: Filesystem, parts: list[str]) -> Node:
    """Follow a path of names from the top; symbolic links are not followed.

    Raises:
        GuestFileNotFound: There is nothing of that name.
    """
    node = filesystem.root()
    for number, part in enumerate(parts):
        found = None
        if node.kind is Kind.FOLDER:
            found = next((child for child in filesystem.children(node) if child.name == part), None)
        if found is None:
            path = "/".join(parts[: number + 1])
            raise GuestFileNotFound(f"there is no /{path} on this volume", fix="List its folder without --get")
        if found.kind is Kind.LINK and number + 1 < len(parts):
            path = "/".join(parts[: number + 1])
            raise GuestFileNotFound(
                f"/{path} is a symbolic link to {filesystem.target(found)!r}, and links are not followed",
                fix="Give the path that it points to",
            )
        node = found
    return node
