"""Which privileges each feature needs and on what, and which of them the user lacks, asked before anything is begun.

The one table of them. docs/privileges.md shows the same (a test compares them), the checks before an export and
``hyperexport check`` ask for them, and the tests prove with it that no role need hold more. It follows the API's own
type information (``privId`` of each method and property) and vSphere's programming guides.
"""

import logging
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Any, Final

from pydantic import Field
from pyVmomi import vim, vmodl

from hyperexport.errors import HyperExportError, ServerFault
from hyperexport.model.vm import Value, VmRef
from hyperexport.vsphere.collector import properties, referred
from hyperexport.vsphere.faults import is_caused_by
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)


class Place(StrEnum):
    """What a role has to be given on. It may be given on a folder above, and propagate."""

    VM = "the VM"
    DATASTORE = "the VM's datastores"
    FOLDER = "the target folder"
    POOL = "the target resource pool"
    TARGET_DATASTORE = "the target datastore"
    NETWORK = "the target networks"
    TARGET_VM = "the VM that gets the disks"


class Requirement(Value):
    """One privilege that a feature needs."""

    feature: str = Field(description="What it is for, in two or three words.")
    when: str = Field(description="The options that want it.")
    privilege: str = Field(description="Its id, as the API and govc write it.")
    title: str = Field(description="Where vSphere's client shows it in the role editor.")
    place: Place
    calls: tuple[str, ...] = Field(description="The methods of the API that ask for it.")
    vital: bool = Field(description="Whether an export fails without it, or only does less.")
    without: str = Field(description="What happens without it.")


EXPORT: Final = Requirement(
    feature="export",
    when="always",
    privilege="VApp.Export",
    title="vApp > Export",
    place=Place.VM,
    calls=("ExportVm", "ExportSnapshot", "CreateDescriptor"),
    vital=True,
    without="nothing can be exported",
)
CREATE_SNAPSHOT: Final = Requirement(
    feature="take a snapshot",
    when="--snapshot",
    privilege="VirtualMachine.State.CreateSnapshot",
    title="Virtual machine > Snapshot management > Create snapshot",
    place=Place.VM,
    calls=("CreateSnapshot_Task",),
    vital=True,
    without="a running VM cannot be exported",
)
REMOVE_SNAPSHOT: Final = Requirement(
    feature="remove snapshots",
    when="--snapshot, --keep-snapshots, --consolidate-snapshots, reap-snapshots",
    privilege="VirtualMachine.State.RemoveSnapshot",
    title="Virtual machine > Snapshot management > Remove snapshot",
    place=Place.VM,
    calls=("RemoveSnapshot_Task", "RemoveAllSnapshots_Task", "ConsolidateVMDisks_Task"),
    vital=True,
    without="snapshots would stay on the VM and grow, so such an export does not begin",
)
CHANGED_AREAS: Final = Requirement(
    feature="ask what changed",
    when="--incremental",
    privilege="VirtualMachine.Provisioning.DiskRandomRead",
    title="Virtual machine > Provisioning > Allow read-only disk access",
    place=Place.VM,
    calls=("QueryChangedDiskAreas",),
    vital=False,
    without="what changed cannot be asked, so every disk is transferred",
)
CHANGE_TRACKING: Final = Requirement(
    feature="switch change tracking on",
    when="--enable-change-tracking",
    privilege="VirtualMachine.Config.ChangeTracking",
    title="Virtual machine > Change Configuration > Toggle disk change tracking",
    place=Place.VM,
    calls=("ReconfigVM_Task",),
    vital=True,
    without="change tracking cannot be switched on, so such an export does not begin",
)
BROWSE: Final = Requirement(
    feature="see when files changed",
    when="--incremental of a VM that is off",
    privilege="Datastore.Browse",
    title="Datastore > Browse datastore",
    place=Place.DATASTORE,
    calls=("SearchDatastore_Task",),
    vital=False,
    without="a disk without change tracking is transferred, though the VM was off all the time",
)
FREE_SPACE: Final = Requirement(
    feature="see free space",
    when="--snapshot",
    privilege="System.Read",
    title="the role Read-only, or any other",
    place=Place.DATASTORE,
    calls=("Datastore.summary",),
    vital=False,
    without="there is no warning of a datastore that a snapshot may fill",
)
TABLE: Final = (
    EXPORT,
    CREATE_SNAPSHOT,
    REMOVE_SNAPSHOT,
    CHANGED_AREAS,
    CHANGE_TRACKING,
    BROWSE,
    FREE_SPACE,
)

READ: Final = frozenset({"System.View", "System.Read"})
"""What every role holds, and without which the VM itself cannot be seen."""


def missing_privileges(session: Session, ref: VmRef, needed: Iterable[str]) -> list[str]:
    """Which of these privileges the user lacks on the VM, in alphabetical order.

    A server that does not answer the question (a host by itself, an account that may not ask) is taken to grant them:
    the operation itself will say so if it is refused.

    Args:
        session: The login.
        ref: The VM.
        needed: Privilege ids; those that this server's version does not know are left out.
    """
    return missing_on(session, vm_object(session, ref), needed, name=ref.name)


def missing_on_datastores(session: Session, ref: VmRef, needed: Iterable[str]) -> dict[str, list[str]]:
    """The same of each datastore that the VM lies on, by its name; those on which nothing is missing are left out."""
    if not (wanted := set(needed)):
        return {}
    doing = f"reading the datastores of {ref.name}"
    read = referred(session, vm_object(session, ref), "datastore", ("name",), kind=vim.Datastore, doing=doing)
    named = {store: unescape(values.shown("name", store._GetMoId())) for store, values in read}
    missing = {name: missing_on(session, store, wanted, name=name) for store, name in named.items()}
    return {name: privileges for name, privileges in missing.items() if privileges}


def missing_on(session: Session, entity: Any, needed: Iterable[str], *, name: str) -> list[str]:
    """The same of any object, by the name that messages have for it."""
    doing = f"asking for the privileges on {name}"
    try:
        try:
            return _not_granted(session, entity, set(needed), doing=doing)
        except ServerFault as error:
            if not is_caused_by(error, (vmodl.fault.InvalidArgument,)):
                raise
            # For a single id that it does not know it refuses the question.
            return _not_granted(session, entity, set(needed) & _known(session, doing=doing), doing=doing)
    except HyperExportError as error:
        if error.transient:
            raise
        logger.info("the privileges on %s are unknown: %s", name, error)
        return []


def _not_granted(session: Session, entity: Any, asked: AbstractSet[str], *, doing: str) -> list[str]:
    if not asked:
        return []
    manager, ids = session.content.authorizationManager, sorted(asked)
    granted = session.read(manager.HasPrivilegeOnEntity, entity, session.key, ids, doing=doing)
    return [privilege for privilege, given in zip(ids, granted, strict=True) if not given]


def _known(session: Session, *, doing: str) -> frozenset[str]:
    """The ids of all privileges that the server knows: some four hundred, read once in a login."""
    key = "privilegeList"
    if key not in session.constants:
        listed = properties(session, session.content.authorizationManager, (key,), doing=doing).get(key, ())
        session.constants[key] = frozenset(privilege.privId for privilege in listed)
    return session.constants[key]
