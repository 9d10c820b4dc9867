"""What is there already and could be in the way of a restored VM: VMs of the same identity, names in a folder."""

from typing import Any

from pyVmomi import vim

from hyperexport.vsphere.collector import properties, properties_of
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session


def vms_with_uuid(session: Session, instance_uuid: str) -> list[str]:
    """The names of the VMs of a server that have this instance UUID, in alphabetical order."""
    doing = f"looking for the VM {instance_uuid}"
    found = session.read(session.content.searchIndex.FindAllByUuid, None, instance_uuid, True, True, doing=doing)
    vms = [each for each in found or () if isinstance(each, vim.VirtualMachine)]
    named = properties_of(session, vms, ("name",), doing=doing)
    return sorted(unescape(values.shown("name", obj._GetMoId())) for obj, values in named)


def names_in(session: Session, folder: Any) -> set[str]:
    """The names of everything that lies in a folder of the inventory."""
    doing = "reading the names in the target folder"
    members = properties(session, folder, ("childEntity",), doing=doing).get("childEntity", ())
    return {unescape(values["name"]) for _, values in properties_of(session, list(members), ("name",), doing=doing)}
