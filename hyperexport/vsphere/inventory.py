"""Which VMs there are, and what one of them is like.

Names are resolved exactly and never guessed; everything is read by property collector, leaf by leaf, because whole
objects are large (and some servers cannot send them). Nothing is changed.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any, Final

from pydantic import Field
from pyVmomi import vim

from hyperexport.errors import VmAmbiguous, VmNotFound
from hyperexport.vm import DiskInfo, PowerState, Value, VmInfo, VmRef
from hyperexport.vsphere import devices
from hyperexport.vsphere.collector import Properties, properties, properties_of, retrieve
from hyperexport.vsphere.names import escape, unescape
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_tree import flatten

_ENTITIES: Final = {
    vim.VirtualMachine: (
        "name",
        "parent",
        "parentVApp",
        "runtime.powerState",
        "config.template",
        "config.instanceUuid",
        "config.guestFullName",
    ),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent"),
    vim.VirtualApp: ("name", "parentFolder", "parentVApp"),
}
_VM_PATHS: Final = (
    "capability.changeTrackingSupported",
    "config.changeTrackingEnabled",
    "config.firmware",
    "config.guestFullName",
    "config.hardware.device",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.keyId",
    "config.template",
    "config.version",
    "datastore",
    "guest.toolsRunningStatus",
    "layoutEx.disk",
    "layoutEx.file",
    "network",
    "runtime.consolidationNeeded",
    "runtime.host",
    "runtime.powerState",
    "snapshot",
    "summary.storage.committed",
    "summary.storage.uncommitted",
)
_NEAR: Final = 3
_BY_PATH: Final = "List the VMs, or name it by its whole inventory path"


class VmRow(Value):
    """A VM in a list: what one paged request for all of them gives."""

    ref: VmRef
    power_state: PowerState
    guest_os: str
    template: bool = Field(description="Whether it is a template, which cannot be snapshotted.")


def list_vms(session: Session, *, match: Sequence[str] = (), folder: str | None = None) -> list[VmRow]:
    """List the VMs, in the order of their paths.

    Args:
        session: The login.
        match: Globs on the name or the whole path; a VM is listed that matches any of them. None given: all.
        folder: The whole path of a folder (or datacenter, or vApp) that they must lie in, at any depth.

    Raises:
        VmNotFound: There is no such folder.
    """
    rows, places = _inventory(session)
    if folder is not None:
        inside = "/" + folder.strip("/")
        if inside not in places:
            raise VmNotFound(f"no folder {inside} is on {session.address}", fix=_near(inside, places) or _BY_PATH)
        rows = [row for row in rows if row.ref.path.startswith(f"{inside}/")]
    if match:
        rows = [row for row in rows if any(_matches(row.ref, glob) for glob in match)]
    return sorted(rows, key=lambda row: row.ref.path)


def find_vm(session: Session, name_or_path: str) -> VmRef:
    """Find the one VM that bears this name or whole inventory path.

    Raises:
        VmNotFound: None does; near names are suggested.
        VmAmbiguous: Several do; their paths are listed.
    """
    rows, _ = _inventory(session)
    path = "/" + name_or_path.strip("/")
    found = [row.ref for row in rows if name_or_path in (row.ref.name, escape(row.ref.name)) or row.ref.path == path]
    if not found:
        names = sorted({row.ref.path if "/" in name_or_path else row.ref.name for row in rows})
        raise VmNotFound(
            f"no VM named {name_or_path!r} is on {session.address}, or {session.user} may not see it",
            fix=_near(name_or_path, names) or _BY_PATH,
        )
    if len(found) > 1:
        paths = ", ".join(sorted(ref.path for ref in found))
        raise VmAmbiguous(f"{len(found)} VMs are named {name_or_path!r}: {paths}", fix="Name one by its whole path")
    return found[0]


def describe(session: Session, ref: VmRef) -> VmInfo:
    """Read everything that a person wants to know of a VM before an export.

    Raises:
        VmNotFound: The VM is gone, or nothing of it can be read.
    """
    doing = f"reading the configuration of {ref.name}"
    values = properties(session, vm_object(session, ref), _VM_PATHS, doing=doing)
    if "runtime.powerState" not in values:
        raise VmNotFound(f"{ref.path} on {session.address} has no readable configuration: it is gone or inaccessible")
    listed = values.get("config.hardware.device", [])
    names = _names(session, values, doing=doing)
    encrypted = values.get("config.keyId") is not None
    committed = values.get("summary.storage.committed", 0)
    snapshot = values.get("snapshot")
    return VmInfo(
        ref=ref,
        power_state=PowerState(values["runtime.powerState"]),
        guest_os=values.get("config.guestFullName", ""),
        cpus=values.get("config.hardware.numCPU", 0),
        memory_mb=values.get("config.hardware.memoryMB", 0),
        hardware_version=values.get("config.version", ""),
        firmware=values.get("config.firmware", "bios"),
        tools_status=values.get("guest.toolsRunningStatus", "guestToolsNotRunning"),
        provisioned=committed + values.get("summary.storage.uncommitted", 0),
        used=committed,
        change_tracking=values.get("config.changeTrackingEnabled", False),
        change_tracking_supported=values.get("capability.changeTrackingSupported", False),
        consolidation_needed=values.get("runtime.consolidationNeeded", False),
        template=values.get("config.template", False),
        encrypted=encrypted,
        host=names.get(_moref(values.get("runtime.host"))),
        datastores=tuple(
            sorted(names[_moref(store)] for store in values.get("datastore", ()) if _moref(store) in names)
        ),
        disks=devices.disks(listed, used=_used_by_disk(values), encrypted=encrypted),
        nics=devices.nics(listed, networks=names),
        snapshots=flatten(snapshot),
    )


def disks_of_snapshot(session: Session, moref: str) -> tuple[DiskInfo, ...]:
    """Read the disks as a snapshot froze them, with their change ids.

    Args:
        session: The login.
        moref: The snapshot's managed object id.

    Raises:
        ServerFault: The snapshot is gone.
    """
    values = properties(
        session,
        session.reference(vim.vm.Snapshot, moref),
        ("config.hardware.device", "config.keyId"),
        doing=f"reading the disks of snapshot {moref}",
    )
    return devices.disks(values.get("config.hardware.device", ()), encrypted=values.get("config.keyId") is not None)


def datastore_free(session: Session, ref: VmRef) -> dict[str, int]:
    """Free bytes of each datastore that the VM lies on, by its name."""
    doing = f"reading the datastores of {ref.name}"
    stores = properties(session, vm_object(session, ref), ("datastore",), doing=doing).get("datastore", ())
    read = properties_of(session, list(stores), ("name", "summary.freeSpace"), doing=doing)
    return {
        unescape(values["name"]): values["summary.freeSpace"] for _, values in read if "summary.freeSpace" in values
    }


def vm_object(session: Session, ref: VmRef) -> Any:
    """The VM to call methods on."""
    return session.reference(vim.VirtualMachine, ref.moref)


def _inventory(session: Session) -> tuple[list[VmRow], set[str]]:
    """Read all VMs, and the paths of all places that VMs can lie in, with one paged collection."""
    found = {_moref(obj): (obj, values) for obj, values in retrieve(session, _ENTITIES, doing="listing the VMs")}
    tree = {moref: (values.get("name", moref), _moref(_parent(values))) for moref, (_, values) in found.items()}
    rows: list[VmRow] = []
    places: set[str] = set()
    for moref, (obj, values) in found.items():
        path = _path(moref, tree)
        if isinstance(obj, vim.VirtualMachine):
            rows.append(_row(moref, path, values))
        else:
            places.add(path)
    return rows, places


def _row(moref: str, path: str, values: Properties) -> VmRow:
    ref = VmRef(
        moref=moref,
        name=unescape(values.get("name", moref)),
        path=path,
        instance_uuid=values.get("config.instanceUuid") or "",
    )
    return VmRow(
        ref=ref,
        power_state=PowerState(values.get("runtime.powerState", "poweredOff")),
        guest_os=values.get("config.guestFullName", ""),
        template=values.get("config.template", False),
    )


def _parent(values: Properties) -> Any:
    # A VM in a vApp has no parent folder; the path leads through the vApp, as in vSphere's VMs and Templates view.
    return values.get("parentVApp") or values.get("parentFolder") or values.get("parent")


def _path(moref: str, tree: dict[str, tuple[str, str]]) -> str:
    names: list[str] = []
    while moref in tree:  # the root folder itself is in no view, so the walk ends there
        name, moref = tree[moref]
        names.append(name)
    return "/" + "/".join(reversed(names))


def _matches(ref: VmRef, glob: str) -> bool:
    return fnmatch.fnmatchcase(ref.name, glob) or fnmatch.fnmatchcase(ref.path, glob)


def _near(name: str, names: Sequence[str] | set[str]) -> str | None:
    near = difflib.get_close_matches(name, sorted(names), n=_NEAR, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else None


def _names(session: Session, values: Properties, *, doing: str) -> dict[str, str]:
    """Names of the host, datastores and networks, by managed object id (which is a port group's key, too)."""
    host = values.get("runtime.host")
    objects = [*values.get("datastore", ()), *values.get("network", ()), *([host] if host else [])]
    read = properties_of(session, objects, ("name",), doing=doing)
    return {_moref(obj): unescape(found["name"]) for obj, found in read if "name" in found}


def _used_by_disk(values: Properties) -> dict[int, int]:
    sizes = {file.key: file.size for file in values.get("layoutEx.file", ())}
    return {
        disk.key: sum(sizes.get(key, 0) for link in disk.chain for key in link.fileKey)
        for disk in values.get("layoutEx.disk", ())
    }


def _moref(obj: Any) -> str:
    return "" if obj is None else obj._GetMoId()
