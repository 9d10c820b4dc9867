"""Which VMs there are, and what one of them is like.

Names are resolved exactly and never guessed; everything is read by property collector, leaf by leaf, because whole
objects are large (and some servers cannot send them). Nothing is changed.
"""

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import Field
from pyVmomi import vim

from hyperexport.base.patterns import matches
from hyperexport.base.text import natural_order
from hyperexport.errors import ServerFault, VmAmbiguous, VmNotFound
from hyperexport.model.vm import DiskInfo, PowerState, Value, VmBrief, VmInfo, VmRef
from hyperexport.vsphere import devices
from hyperexport.vsphere.capacities import disk_capacities
from hyperexport.vsphere.collector import PAGE, Properties, every_object, properties, properties_of, referred
from hyperexport.vsphere.faults import GONE, is_caused_by
from hyperexport.vsphere.names import escape, unescape
from hyperexport.vsphere.raw_collection import RawObject, collect_raw
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.snapshot_tree import flatten

T = TypeVar("T")

logger = logging.getLogger(__name__)

_ENTITIES: Final = {
    vim.VirtualMachine: (
        "name",
        "parent",
        "parentVApp",
        "runtime.powerState",
        "config.template",
        "config.instanceUuid",
        "config.guestFullName",
        "config.hardware.memoryMB",
        "config.hardware.numCPU",
        "runtime.host",
        "datastore",
    ),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent"),
    vim.VirtualApp: ("name", "parentFolder", "parentVApp"),
}
_PLACE: Final = {
    kind: tuple(path for path in paths if path in {"name", "config.instanceUuid"} or path.startswith("parent"))
    for kind, paths in _ENTITIES.items()
}
"""Where each of them lies, and what it is called."""

_VM_PATHS: Final = (
    "capability.changeTrackingSupported",
    "config.changeTrackingEnabled",
    "config.firmware",
    "config.guestFullName",
    "config.hardware.device",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.instanceUuid",
    "config.keyId",
    "config.template",
    "config.version",
    "datastore",
    "guest.toolsRunningStatus",
    "layoutEx.disk",
    "layoutEx.file",
    "network",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "runtime.host",
    "runtime.powerState",
    "snapshot",
    "summary.storage.committed",
    "summary.storage.uncommitted",
)
_DECIDING: Final = (
    "config.changeTrackingEnabled",
    "config.hardware.device",
    "config.instanceUuid",
    "config.keyId",
    "config.template",
    "runtime.connectionState",
    "snapshot",
)
"""What an export is decided by: where one of these could not be read, nothing may be taken for unset."""

_NEAR: Final = 3
_BY_PATH: Final = "List the VMs, or name it by its whole inventory path"


class VmRow(Value):
    """A VM in a list: what one paged request for all of them gives."""

    ref: VmRef
    power_state: PowerState
    guest_os: str
    cpus: int = 0
    memory_mb: int = 0
    template: bool = Field(description="Whether it is a template, which cannot be snapshotted.")
    uuid_unread: bool = Field(
        default=False, description="Whether its instance UUID could not be read, which does not mean that it has none."
    )
    host: str | None = Field(default=None, description="The host that it is on, by its managed object id.")
    datastores: tuple[str, ...] = Field(default=(), description="Those that it lies on, by managed object id.")


class Inventory(NamedTuple):
    """All VMs of a server that the user may see, in the order of their paths, and the places that VMs can lie in."""

    rows: tuple[VmRow, ...]
    places: frozenset[str]
    seen_by: str
    """Whose view it is, for messages: ``vcenter.example.com, or backup``, who may not see everything."""

    def named(self, name_or_path: str) -> VmRow:
        """The one VM that has this name or whole inventory path.

        Raises:
            VmNotFound: None does; near names are suggested.
            VmAmbiguous: Several do; their paths are listed.
        """
        path = "/" + name_or_path.strip("/")
        found = [
            row for row in self.rows if name_or_path in (row.ref.name, escape(row.ref.name)) or row.ref.path == path
        ]
        if not found:
            near = {row.ref.path if "/" in name_or_path else row.ref.name for row in self.rows}
            raise VmNotFound(
                f"no VM named {name_or_path!r} is on {self.seen_by} may not see it",
                fix=_near(name_or_path, near) or _BY_PATH,
            )
        if len(found) > 1:
            paths = ", ".join(row.ref.path for row in found)
            raise VmAmbiguous(f"{len(found)} VMs are named {name_or_path!r}: {paths}", fix="Name one by its whole path")
        return found[0]

    def inside(self, folder: str) -> frozenset[str]:
        """The VMs in a folder, datacenter or vApp, at any depth, by managed object id.

        Raises:
            VmNotFound: There is no such place.
        """
        place = "/" + folder.strip("/")
        if place not in self.places:
            raise VmNotFound(
                f"no folder {place} is on {self.seen_by} may not see it", fix=_near(place, self.places) or _BY_PATH
            )
        return frozenset(row.ref.moref for row in self.rows if row.ref.path.startswith(f"{place}/"))

    def matching(self, glob: str) -> frozenset[str]:
        """The VMs whose name or whole path matches a pattern, by managed object id."""
        return frozenset(row.ref.moref for row in self.rows if _matches(row.ref, glob))


def read_inventory(session: Session) -> Inventory:
    """Read all VMs, and the paths of all places that VMs can lie in, with one paged collection."""
    doing = "listing the VMs"
    with every_object(session, _ENTITIES, doing=doing) as spec:
        found = {one.moref: one for one in collect_raw(session, spec, page=PAGE, doing=doing)}
    tree = {moref: (one.text("name") or moref, _place(one)) for moref, one in found.items()}
    rows: list[VmRow] = []
    places: set[str] = set()
    for moref, one in found.items():
        path = _path(moref, tree)
        if one.kind == "VirtualMachine":
            rows.append(_row(path, one))
        else:
            places.add(path)
    rows.sort(key=lambda row: row.ref.path)
    return Inventory(tuple(rows), frozenset(places), f"{session.address}, or {session.user}")


def find_vm(session: Session, name_or_path: str) -> VmRef:
    """Find the one VM that has this name or whole inventory path.

    A path is looked up alone. A name needs the list of all VMs, since several may have it.

    Raises:
        VmNotFound: None does; near names are suggested.
        VmAmbiguous: Several do; their paths are listed.
    """
    at_path = _vm_at(session, name_or_path) if name_or_path.startswith("/") else None
    return at_path or read_inventory(session).named(name_or_path).ref


def _vm_at(session: Session, path: str) -> VmRef | None:
    """The VM at an inventory path; None where the server finds none, or one that lies elsewhere.

    vSphere API: ``FindByInventoryPath`` does not promise to heed case, nor to look into vApps, so the path is read
    back from the places around what it found.
    """
    doing = f"looking for {path}"
    found = session.call(session.content.searchIndex.FindByInventoryPath, path.strip("/"), doing=doing)
    if not isinstance(found, vim.VirtualMachine):
        return None
    names: list[str] = []
    uuid, place = "", found
    while type(place) in _ENTITIES and place != session.content.rootFolder and len(names) <= path.count("/"):
        values = properties(session, place, _PLACE[type(place)], doing=doing)
        names.append(values.shown("name", ""))
        uuid = values.shown("config.instanceUuid") or uuid
        place = _parent(values)
    if [*reversed(names)] != path.strip("/").split("/"):
        return None
    return VmRef(moref=_moref(found), name=unescape(names[0]), path="/" + path.strip("/"), instance_uuid=uuid)


def describe(session: Session, ref: VmRef) -> VmInfo:
    """Read everything that a person wants to know of a VM before an export.

    Raises:
        VmNotFound: The VM is gone, or nothing of it can be read.
    """
    for info in describe_many(session, [ref]):
        return info
    raise VmNotFound(f"{ref.path} on {session.address} has no readable configuration: it is gone or inaccessible")


def describe_many(session: Session, refs: Sequence[VmRef]) -> list[VmInfo]:
    """Read the same of many VMs, with one paged collection for them and one for the names of what they use.

    A VM that is gone by now, or of which nothing can be read, is left out, and that is said.
    """
    doing = f"reading the configuration of {refs[0].name if len(refs) == 1 else f'{len(refs)} VMs'}"
    read = _read_all(session, [vm_object(session, ref) for ref in refs], _VM_PATHS, doing=doing)
    readable = {moref: values for moref, values in read.items() if "runtime.powerState" in values}
    absent = [ref.path for ref in refs if ref.moref not in readable]
    if absent and len(refs) > 1:
        logger.warning("%s cannot be read, and may be gone or inaccessible", ", ".join(absent))
    names = _names(session, readable.values(), doing=doing)
    return [_info(ref, readable[ref.moref], names) for ref in refs if ref.moref in readable]


def brief_many(session: Session, rows: Sequence[VmRow]) -> list[VmBrief]:
    """Say of many VMs what the list does not: how large their disks are.

    A VM that is gone by now is left out. Where its devices cannot be read, its size is unknown, and that is said.
    """
    wanted = {row.ref.moref: vm_object(session, row.ref) for row in rows}
    capacities, gone = _without_gone(wanted, lambda vms: disk_capacities(session, vms))
    unknown = [row.ref.path for row in rows if row.ref.moref not in capacities.keys() | gone]
    if unknown:
        logger.warning("the devices of %s could not be read, so the size of the disks is unknown", ", ".join(unknown))
    return [
        VmBrief(
            ref=row.ref,
            power_state=row.power_state,
            guest_os=row.guest_os,
            cpus=row.cpus,
            memory_mb=row.memory_mb,
            storage_bytes=capacities.get(row.ref.moref),
        )
        for row in rows
        if row.ref.moref not in gone
    ]


def _read_all(session: Session, objects: Sequence[Any], paths: Sequence[str], *, doing: str) -> dict[str, Properties]:
    """Properties by managed object id, of those that are still there."""
    return _without_gone(
        {_moref(obj): obj for obj in objects},
        lambda left: {_moref(obj): values for obj, values in properties_of(session, left, paths, doing=doing)},
    )[0]


def _without_gone(
    wanted: dict[str, Any], read: Callable[[Sequence[Any]], dict[str, T]]
) -> tuple[dict[str, T], AbstractSet[str]]:
    """Read of many objects. One that is gone would fail the whole request, so it is left out.

    Returns:
        What was read, and which are gone.
    """
    left = dict(wanted)
    while True:
        try:
            return (read(list(left.values())) if left else {}), wanted.keys() - left.keys()
        except ServerFault as error:
            gone = _moref(getattr(error.__cause__, "obj", None))
            if not is_caused_by(error, GONE) or gone not in left:
                raise
            del left[gone]


def _info(ref: VmRef, values: Properties, names: Mapping[str, str]) -> VmInfo:
    listed = values.shown("config.hardware.device", [])
    committed = values.shown("summary.storage.committed", 0)
    snapshot = values.shown("snapshot")
    uuid = ref.instance_uuid if "config.instanceUuid" in values.unread else values.shown("config.instanceUuid") or ""
    return VmInfo(
        ref=ref.model_copy(update={"instance_uuid": uuid}),  # a list may have been refused it
        power_state=PowerState(values["runtime.powerState"]),
        guest_os=values.shown("config.guestFullName", ""),
        cpus=values.shown("config.hardware.numCPU", 0),
        memory_mb=values.shown("config.hardware.memoryMB", 0),
        hardware_version=values.shown("config.version", ""),
        firmware=values.shown("config.firmware", "bios"),
        tools_status=values.shown("guest.toolsRunningStatus", "unknown"),
        provisioned=committed + values.shown("summary.storage.uncommitted", 0),
        used=committed,
        change_tracking=values.shown("config.changeTrackingEnabled", False),
        change_tracking_supported=values.shown("capability.changeTrackingSupported"),
        consolidation_needed=values.shown("runtime.consolidationNeeded", False),
        template=values.shown("config.template", False),
        encrypted=values.shown("config.keyId") is not None,
        vtpm=devices.has_vtpm(listed),
        connection=values.shown("runtime.connectionState"),
        readable="config.hardware.device" in values,
        host=names.get(_moref(values.shown("runtime.host"))),
        datastores=tuple(
            sorted(names[_moref(store)] for store in values.shown("datastore", ()) if _moref(store) in names)
        ),
        disks=devices.disks(listed, used=_used_by_disk(values)),
        nics=devices.nics(listed, networks=names),
        snapshots=flatten(snapshot),
        unread=tuple(
            f"{path} ({type(values.unread[path]).__name__.rpartition('.')[2]})"
            for path in _DECIDING
            if path in values.unread
        ),
    )


def read_disks(session: Session, ref: VmRef) -> tuple[DiskInfo, ...]:
    """Read a VM's disks as it has them now, with their change ids, and nothing else of it.

    Raises:
        ServerFault: The VM is gone.
    """
    doing = f"reading the disks of {ref.name}"
    values = properties(session, vm_object(session, ref), ("config.hardware.device",), doing=doing)
    return devices.disks(values.get("config.hardware.device", ()))


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
        ("config.hardware.device",),
        doing=f"reading the disks of snapshot {moref}",
    )
    frozen = devices.disks(values.get("config.hardware.device", ()))
    return tuple(disk.model_copy(update={"unexportable": disk.unexportable or disk.unsnapshottable}) for disk in frozen)


def datastore_free(session: Session, ref: VmRef) -> dict[str, int]:
    """Free bytes of each datastore that the VM lies on, by its name."""
    doing = f"reading the datastores of {ref.name}"
    read = referred(
        session, vm_object(session, ref), "datastore", ("name", "summary.freeSpace"), kind=vim.Datastore, doing=doing
    )
    return {
        unescape(values["name"]): values["summary.freeSpace"] for _, values in read if "summary.freeSpace" in values
    }


def vm_object(session: Session, ref: VmRef) -> Any:
    """The VM to call methods on."""
    return session.reference(vim.VirtualMachine, ref.moref)


def _row(path: str, vm: RawObject) -> VmRow:
    ref = VmRef(
        moref=vm.moref,
        name=unescape(vm.text("name") or vm.moref),
        path=path,
        instance_uuid=vm.text("config.instanceUuid"),
    )
    return VmRow(
        ref=ref,
        power_state=next((state for state in PowerState if state == vm.text("runtime.powerState")), PowerState.UNKNOWN),
        guest_os=vm.text("config.guestFullName"),
        cpus=vm.number("config.hardware.numCPU"),
        memory_mb=vm.number("config.hardware.memoryMB"),
        template=vm.flag("config.template"),
        uuid_unread=vm.is_unread("config.instanceUuid"),
        host=vm.text("runtime.host") or None,
        datastores=tuple(store.text or "" for store in vm.members("datastore")),
    )


def _place(one: RawObject) -> str:
    """What it lies in, by managed object id; as :func:`_parent` has it."""
    return one.text("parentVApp") or one.text("parentFolder") or one.text("parent")


def _parent(values: Properties) -> Any:
    # A VM in a vApp has no parent folder; the path leads through the vApp, as in vSphere's VMs and Templates view.
    return values.shown("parentVApp") or values.shown("parentFolder") or values.shown("parent")


def _path(moref: str, tree: dict[str, tuple[str, str]]) -> str:
    names: list[str] = []
    # The root folder itself is in no view, so the walk ends there; or in a circle, if a server says that there is one.
    while moref in tree and len(names) <= len(tree):
        name, moref = tree[moref]
        names.append(name)
    if len(names) > len(tree):
        raise ServerFault("listing the VMs failed: the server's folders contain one another")
    return "/" + "/".join(reversed(names))


def _matches(ref: VmRef, glob: str) -> bool:
    return matches(ref.name, glob) or matches(ref.path, glob)


def _near(name: str, names: AbstractSet[str]) -> str | None:
    """Suggest names: those that differ only in case, or else the most alike; of equally alike ones in natural order."""
    folded = name.casefold()
    near = sorted(other for other in names if other.casefold() == folded)
    if not near:
        ratios = {other: difflib.SequenceMatcher(None, other.casefold(), folded).ratio() for other in names}
        alike = [other for other, ratio in ratios.items() if ratio >= 0.6]
        near = sorted(alike, key=lambda other: (-ratios[other], natural_order(other)))[:_NEAR]
    return f"Did you mean {' or '.join(near)}?" if near else None


def _names(session: Session, read: Iterable[Properties], *, doing: str) -> dict[str, str]:
    """Names of the hosts, datastores and networks, by managed object id (which is a port group's key, too)."""
    objects = {
        _moref(obj): obj
        for values in read
        for obj in (*values.shown("datastore", ()), *values.shown("network", ()), values.shown("runtime.host"))
        if obj is not None
    }
    named = _read_all(session, list(objects.values()), ("name",), doing=doing)
    return {moref: unescape(values["name"]) for moref, values in named.items() if "name" in values}


def _used_by_disk(values: Properties) -> dict[int, int]:
    sizes = {file.key: file.size for file in values.shown("layoutEx.file", ())}
    files = {
        disk.key: [key for link in disk.chain for key in link.fileKey] for disk in values.shown("layoutEx.disk", ())
    }
    # A file whose size is missing leaves the disk's unknown, and not smaller.
    return {disk: sum(sizes[key] for key in keys) for disk, keys in files.items() if keys and sizes.keys() >= set(keys)}


def _moref(obj: Any) -> str:
    return "" if obj is None else obj._GetMoId()
