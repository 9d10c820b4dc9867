"""Where a VM is in its vCenter, and what vCenter keeps about it beside its configuration: for the manifest."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vim

from hyperexport.errors import HyperExportError
from hyperexport.model.restore import VmPlace
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import Properties, properties, with_ancestors
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tags import tags_of

logger = logging.getLogger(__name__)

_PATHS: Final = ("parent", "resourcePool", "runtime.host", "config.files.vmPathName", "datastore", "customValue")
_NAMED: Final = ("name", "parent")
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
    named = Named(session, values, doing=doing)
    return VmPlace(
        folder=part("folder", lambda: named.path(values.get("parent")), None),
        resource_pool=part("resource pool", lambda: named.path(values.get("resourcePool")), None),
        host=part("host", lambda: named.name(values.get("runtime.host")), None),
        datastores=part("datastores", lambda: _datastores(named, values), ()),
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


class Named:
    """The names of what a VM is in and on, and what they are in: read at once, as a deep inventory has a dozen."""

    def __init__(self, session: Session, values: Properties, *, doing: str) -> None:
        self._session = session
        self._doing = doing
        above = [values.shown("parent"), values.shown("resourcePool")]
        beside = [values.shown("runtime.host"), *values.shown("datastore", ())]
        self._read: dict[str, Properties] = {}
        try:
            self._read = with_ancestors(
                session,
                [each for each in above if each is not None],
                [each for each in beside if each is not None],
                _NAMED,
                doing=doing,
            )
        except HyperExportError as error:
            # A single object that is gone fails the whole request.
            logger.debug("reading each name on its own: %s", error)

    def of(self, obj: Any) -> Properties:
        """An object's name and parent; asked for again where it was not read with the others, to have the reason."""
        known = self._read.get(obj._GetMoId())
        return properties(self._session, obj, _NAMED, doing=self._doing) if known is None else known

    def name(self, obj: Any) -> str | None:
        """The name of an object; None where there is none."""
        name = self.of(obj).get("name") if obj is not None else None
        return unescape(name) if name else None

    def path(self, obj: Any) -> str | None:
        """The inventory path of an object; None where it has none (a VM in a vApp has no folder)."""
        names: list[str] = []
        while obj is not None and len(names) < _DEEPEST:
            values = self.of(obj)
            above = values.get("parent")
            if above is not None:  # the root folder has a name that is in no path
                names.append(values.get("name", ""))
            obj = above
        return "/" + "/".join(reversed(names)) if names else None


def _datastores(named: Named, values: Properties) -> tuple[str, ...]:
    names = [named.name(store) for store in values.get("datastore", ())]
    path = values.get("config.files.vmPathName") or ""
    home = path.partition("]")[0].removeprefix("[")
    found = [name for name in names if name]
    return tuple(sorted(found, key=lambda name: (name != home, name)))
