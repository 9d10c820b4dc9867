"""Which folder of a store a VM's exports lie in, and what they hold.

The manifests there decide; a name only says where to look.
"""

from collections.abc import Iterable
from typing import Final

from hyperexport.model.history import identity_of, newest_first, of_vm
from hyperexport.model.identity import VmIdentity
from hyperexport.model.manifest import FileEntry, slug, vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import VmRef
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.listing import StoreListing

_SUFFIX: Final = 9  # a dot and eight hex digits


def distinct_folder(ref: VmRef, vm: VmIdentity) -> str:
    """Name a folder that no other VM gets, whatever its name and the first digits of its UUID."""
    return f"{slug(ref.name)}.{vm.digest}"


def folders_of(store: Store, ref: VmRef, vm: VmIdentity) -> list[str]:
    """Find the folders in which exports of a VM can lie: a renamed VM's have its old name and the same digits.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be listed.
    """
    suffixes = {vm_folder(ref)[-_SUFFIX:], distinct_folder(ref, vm)[-_SUFFIX:]}
    return [folder for folder in store.folders() if folder[-_SUFFIX:] in suffixes]


def folder_for(store: Store, ref: VmRef, vm: VmIdentity) -> str:
    """Choose the folder that a VM's next export goes to.

    Returns:
        The folder that holds its newest export; else the one named after it, if no other VM is there; else one that
        is its own.

    Raises:
        StoreUnusable, StoreUnreachable: The store could not be listed.
    """
    exports = [export for folder in folders_of(store, ref, vm) for export in store.exports(folder)]
    mine = newest_first(of_vm(exports, lambda export: export.manifest, vm), lambda export: export.manifest)
    if mine:
        return mine[0].folder
    named = vm_folder(ref)
    there = [export for export in exports if export.folder == named]
    return distinct_folder(ref, vm) if _is_shared(store, named, there, vm) else named


def is_shared(store: Store, folder: str, vm: VmIdentity) -> bool:
    """Tell whether another VM has exports or stagings in a folder."""
    return _is_shared(store, folder, store.exports(folder), vm)


def exports_of(store: Store, folder: str, vm: VmIdentity) -> list[StoredExport]:
    """The exports of a VM in a folder, the newest first; those of another VM there are left out."""
    return of_vm(store.exports(folder), lambda export: export.manifest, vm)


def holding(earlier: Iterable[StoredExport], entry: FileEntry) -> tuple[StoredExport, FileEntry] | None:
    """Find the first of several exports that has a disk's file, or tags, with the same content, and no known damage."""
    for export in earlier:
        if export.manifest.damage:
            continue
        for candidate in (*export.manifest.stored_disks, *export.manifest.tags):
            if candidate.sha256 == entry.sha256 and candidate.size == entry.size:
                return export, candidate
    return None


def listing_for(store: Store, folder: str, vm: VmIdentity) -> StoreListing:
    """What a folder holds of a VM, and what there cannot be relied on: that may be of any VM."""
    listing = store.listing(folder)
    mine = of_vm(listing.exports, lambda export: export.manifest, vm)
    return StoreListing(exports=tuple(mine), damaged=listing.damaged)


def _is_shared(store: Store, folder: str, exports: list[StoredExport], vm: VmIdentity) -> bool:
    if any(not identity_of(export.manifest).matches(vm) for export in exports):
        return True
    owners = (staging.owner for staging in store.abandoned(folder))
    return any(owner is not None and owner.vm and not _may_be(owner, vm) for owner in owners)


def _may_be(owner: Owner, vm: VmIdentity) -> bool:
    asked = Owner.of_this_process(run="", vcenter=vm.address, vcenter_uuid=vm.server, vm=vm.vm)
    return owner.may_share_vm(asked)
