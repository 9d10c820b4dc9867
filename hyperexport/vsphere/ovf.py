"""The OVF descriptor of an export: asked of the server, or built from the VM's configuration where it can't."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from pyVmomi import vim

from hyperexport.errors import DescriptorFailed, ServerFault
from hyperexport.model.vm import Value, VmRef
from hyperexport.vsphere.collector import properties, properties_of
from hyperexport.vsphere.faults import UNKNOWN_METHOD, is_caused_by, words
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.ovf_builder import OvfFileSpec, build_descriptor
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)


class Descriptor(Value):
    """An OVF descriptor, and what the user should know about it."""

    text: str
    warnings: tuple[str, ...] = ()


def create_descriptor(
    session: Session, ref: VmRef, *, snapshot: str | None, files: Sequence[OvfFileSpec]
) -> Descriptor:
    """Describe the VM, as it is or as a snapshot froze it, with the files that were received.

    To be called before the snapshot is removed.

    Args:
        session: The login.
        ref: The VM.
        snapshot: The snapshot's managed object id.
        files: The files, in the order in which they are to be listed.

    Raises:
        DescriptorFailed: The server lists errors; the message carries them.
        ServerUnreachable, ServerBusy, PermissionMissing: As they say.
    """
    doing = f"describing {ref.name} as OVF"
    wanted = vim.OvfManager.CreateDescriptorParams(
        ovfFiles=[_ovf_file(file) for file in files],
        name=ref.name,
        includeImageFiles=False,
        snapshot=session.reference(vim.vm.Snapshot, snapshot) if snapshot else None,
    )
    create = session.content.ovfManager.CreateDescriptor
    try:
        result = session.read(create, vm_object(session, ref), wanted, doing=doing)
    except ServerFault as error:
        if not is_caused_by(error, UNKNOWN_METHOD):
            raise DescriptorFailed(error.what, fix=error.fix) from error.__cause__
        return _built_here(session, ref, snapshot, files, doing=doing)
    if result.error:
        raise DescriptorFailed(f"{session.address} cannot describe {ref.name} as OVF: {_listed(result.error)}")
    return Descriptor(
        text=result.ovfDescriptor,
        warnings=tuple(f"OVF of {ref.name}: {words(warning)}" for warning in result.warning or ()),
    )


def _ovf_file(file: OvfFileSpec) -> Any:
    return vim.OvfManager.OvfFile(
        deviceId=file.device_key,
        path=file.name,
        size=file.size,
        capacity=file.capacity,
        populatedSize=file.populated,
    )


def _listed(faults: Iterable[Any]) -> str:
    return "; ".join(words(fault) for fault in faults)


def _built_here(
    session: Session, ref: VmRef, snapshot: str | None, files: Sequence[OvfFileSpec], *, doing: str
) -> Descriptor:
    kind, moref = (vim.vm.Snapshot, snapshot) if snapshot else (vim.VirtualMachine, ref.moref)
    config = properties(session, session.reference(kind, moref), ("config",), doing=doing).get("config")
    if config is None:
        raise DescriptorFailed(f"{session.address} returned no configuration of {ref.name} to build a descriptor from")
    warning = f"{session.address} cannot make an OVF descriptor; that of {ref.name} was built from its configuration"
    logger.warning("%s", warning)
    attached = properties(session, vm_object(session, ref), ("network",), doing=doing).shown("network", [])
    named = properties_of(session, attached, ("name",), doing=doing)
    networks = {network._GetMoId(): unescape(found["name"]) for network, found in named if "name" in found}
    return Descriptor(text=build_descriptor(ref.name, config, files, networks=networks), warnings=(warning,))
