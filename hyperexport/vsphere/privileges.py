"""Which privileges each operation needs, and which of them the user lacks, asked before anything is begun.

The table follows the API's own type information (``privId`` of each method) and vSphere's programming guides.
"""

import logging
from collections.abc import Iterable
from typing import Final

from hyperexport.errors import HyperExportError
from hyperexport.vm import VmRef
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

EXPORT: Final = frozenset({"VApp.Export"})
CREATE_SNAPSHOT: Final = frozenset({"VirtualMachine.State.CreateSnapshot"})
REMOVE_SNAPSHOT: Final = frozenset({"VirtualMachine.State.RemoveSnapshot"})
CHANGED_AREAS: Final = frozenset({"VirtualMachine.Provisioning.DiskRandomRead"})
CHANGE_TRACKING: Final = frozenset({"VirtualMachine.Config.ChangeTracking"})
CONSOLIDATE: Final = REMOVE_SNAPSHOT
READ: Final = frozenset({"System.View", "System.Read"})


def missing_privileges(session: Session, ref: VmRef, needed: Iterable[str]) -> list[str]:
    """Which of these privileges the user lacks on the VM, in alphabetical order.

    A server that does not answer the question (a host by itself, an account that may not ask) is taken to grant them:
    the operation itself will say so if it is refused.

    Args:
        session: The login.
        ref: The VM.
        needed: Privilege ids; those that this server's version does not know are left out.
    """
    manager = session.content.authorizationManager
    doing = f"asking for the privileges on {ref.name}"
    try:
        listed = properties(session, manager, ("privilegeList",), doing=doing).get("privilegeList", ())
        known = {privilege.privId for privilege in listed}
        asked = sorted(set(needed) & known)  # an id that it does not know is an InvalidArgument for all of them
        if not asked:
            return []
        has = manager.HasPrivilegeOnEntity
        granted = session.read(has, vm_object(session, ref), session.key, asked, doing=doing)
    except HyperExportError as error:
        if error.transient:
            raise
        logger.info("the privileges on %s are unknown: %s", ref.name, error)
        return []
    return [privilege for privilege, given in zip(asked, granted, strict=True) if not given]
