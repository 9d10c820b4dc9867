"""Where a VM is in its vCenter, and what vCenter keeps about it beside its configuration: for the manifest."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vim

from hyperexport.errors import HyperExportError
from hyperexport.model.restore import VmPlace
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import Properties, properties
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tags import tags_of

logger = logging.getLogger(__name__)

_PATHS: Final = ("parent", "resourcePool", "runtime.host", "config.files.vmPathName", "datastore", "customValue")
_DEEPEST: Final = 64


def read_place(session: Session, ref: VmRef) -> VmPlace:
    """Read where a VM is, its tags and its custom attributes. What could not be read is noted, and fails nothing."""
    doing = f"reading the place of {ref.name}"
    unread: list[str] = []

    def part(name: str, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except HyperExportError as error:
            logger.warning("%s: its %s could not be read: %s", ref.path, name, error.what)
            unread.append(f"{name}: {error.what}")
            return otherwise

    nothing = Properties(session, doing)
    values = part("place", lambda: properties(session, vm_object(session, ref), _PATHS, doing=doing), nothing)
    return VmPlace(
        folder=part("folder", lambda: _path(session, values.get("parent"), doing=doing), None),
        resource_pool=part("resource pool", lambda: _path(session, values.get("resourcePool"), doing=doing), None),
        host=part("host", lambda: _name(session, values.get("runtime.host"), doing=doing), None),
        datastores=part("datastores", lambda: _datastores(session, values, doing=doing), ()),
        tags=part("tags", lambda: tags_of(session, ref.moref), ()),
        custom_attributes=part("custom attributes", lambda: _attributes(session, values, doing=doing), {}),
        unread=tuple(unread),
    )


def set_attributes(session: Session, ref: VmRef, wanted: Mapping[str, str]) -> dict[str, HyperExportError]:
    """Give a VM the values of custom attributes that the server has.

    Returns:
        Why it was not done, for each attribute that could not be set.
    """
    failed: dict[str, HyperExportError] = {}
    for name, value in wanted.items():
        try:
            doing = f"setting the custom attribute {name} of {ref.path}"
            session.call(vm_object(session, ref).setCustomValue, name, value, doing=doing)
        except HyperExportError as error:
            failed[name] = error
    return failed


def known_attributes(session: Session) -> frozenset[str]:
    """The names of the custom attributes that VMs of this server can have; none on a host of its own."""
    return frozenset(_definitions(session, doing="reading the custom attributes").values())


def _definitions(session: Session, *, doing: str) -> dict[int, str]:
    manager = session.content.customFieldsManager
    if manager is None:
        return {}
    fields = properties(session, manager, ("field",), doing=doing).get("field", ())
    return {each.key: each.name for each in fields if each.managedObjectType in (None, vim.VirtualMachine)}


def _attributes(session: Session, values: Properties, *, doing: str) -> dict[str, str]:
    given = values.get("customValue", ())
    names = _definitions(session, doing=doing) if given else {}
    return {
        names[each.key]: each.value
        for each in given
        if each.key in names and isinstance(each, vim.CustomFieldsManager.StringValue) and each.value
    }


def _datastores(session: Session, values: Properties, *, doing: str) -> tuple[str, ...]:
    names = [_name(session, store, doing=doing) for store in values.get("datastore", ())]
    path = values.get("config.files.vmPathName") or ""
    home = path.partition("]")[0].removeprefix("[")
    found = [name for name in names if name]
    return tuple(sorted(found, key=lambda name: (name != home, name)))


def _name(session: Session, obj: Any, *, doing: str) -> str | None:
    name = properties(session, obj, ("name",), doing=doing).get("name") if obj is not None else None
    return unescape(name) if name else None


def _path(session: Session, obj: Any, *, doing: str) -> str | None:
    """The inventory path of an object; None where it has none (a VM in a vApp has no folder)."""
    names: list[str] = []
    while obj is not None and len(names) < _DEEPEST:
        values = properties(session, obj, ("name", "parent"), doing=doing)
        above = values.get("parent")
        if above is not None:  # the root folder has a name that is in no path
            names.append(values.get("name", ""))
        obj = above
    return "/" + "/".join(reversed(names)) if names else None
