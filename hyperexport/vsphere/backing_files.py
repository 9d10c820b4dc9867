"""When the files of a VM's disks were last written, as far as the datastore's browser tells.

Together with the VM being off at both times this is the proof, without change tracking, that a disk is as it was.
Powering a VM on writes its configuration file and its log, so their times are compared, too.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any, Final

from pyVmomi import vim

from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, Interrupted
from hyperexport.model.vm import BackingFile, VmRef
from hyperexport.vsphere.collector import properties, properties_of
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session
from hyperexport.vsphere.tasks import wait_task

logger = logging.getLogger(__name__)

_PATHS: Final = ("config.files.vmPathName", "datastore", "layoutEx.disk", "layoutEx.file")
_LOG: Final = "vmware.log"


def backing_files(
    session: Session, ref: VmRef, *, stop: StopSignal | None = None
) -> dict[int, tuple[BackingFile, ...]]:
    """Read the size and time of every file that each disk consists of, and of the VM's configuration and log.

    Args:
        session: The login; it needs Datastore.Browse on the datastores.
        ref: The VM, which is off.
        stop: Ends the waiting.

    Returns:
        The files by disk key. A disk with an unknown file is left out: nothing is proved of it.

    Raises:
        Interrupted: ``stop`` was raised.
    """
    try:
        return _read(session, ref, stop=stop)
    except Interrupted:
        raise
    except HyperExportError as error:
        logger.info("%s: when its disks were last written is unknown: %s", ref.name, error)
        return {}


def _read(session: Session, ref: VmRef, *, stop: StopSignal | None) -> dict[int, tuple[BackingFile, ...]]:
    doing = f"reading the files of {ref.name}"
    values = properties(session, vm_object(session, ref), _PATHS, doing=doing)
    vmx: str = values.get("config.files.vmPathName", "")
    files = {file.key: file for file in values.get("layoutEx.file", ())}
    chains = {
        disk.key: [files[key] for link in disk.chain for key in link.fileKey if key in files]
        for disk in values.get("layoutEx.disk", ())
    }
    home = [vmx, f"{_folder(vmx)}{_LOG}"]
    wanted = {*home, *(file.name for chain in chains.values() for file in chain)}
    browsers = {
        unescape(found["name"]): found["browser"]
        for _, found in properties_of(session, list(values.get("datastore", ())), ("name", "browser"), doing=doing)
        if found.shown("browser") and found.shown("name")
    }
    found = _search(session, wanted, browsers, doing=doing, stop=stop)
    if any(path not in found for path in home):
        return {}  # it is unknown whether it was powered on in between
    return {
        key: tuple(found[path] for path in sorted({*home, *(file.name for file in chain)}) if path in found)
        for key, chain in chains.items()
        # vSphere API: the browser may show a disk as its descriptor alone, with the extent's size.
        if chain and all(file.name in found for file in chain if file.type == "diskDescriptor")
    }


def _search(
    session: Session, paths: Iterable[str], browsers: Mapping[str, Any], *, doing: str, stop: StopSignal | None
) -> dict[str, BackingFile]:
    """Ask each folder's browser about the files that lie in it."""
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[_folder(path)].append(path.removeprefix(_folder(path)))
    details = vim.host.DatastoreBrowser.FileInfo.Details(
        fileType=False, fileSize=True, modification=True, fileOwner=False
    )
    found: dict[str, BackingFile] = {}
    for folder, names in folders.items():
        browser = browsers.get(folder.partition("]")[0].removeprefix("["))
        if browser is None:
            continue
        spec = vim.host.DatastoreBrowser.SearchSpec(details=details, matchPattern=names)
        search = session.reference(vim.host.DatastoreBrowser, browser._GetMoId()).SearchDatastore_Task
        result = wait_task(session, session.call(search, folder, spec, doing=doing), doing=doing, stop=stop)
        for file in result.file if result else ():
            if file.fileSize is not None and file.modification is not None:
                path = f"{folder}{file.path}"
                found[path] = BackingFile(path=path, size=file.fileSize, modified=file.modification.astimezone(UTC))
    return found


def _folder(path: str) -> str:
    """``[datastore1] db01/`` of ``[datastore1] db01/db01.vmdk``."""
    return path[: path.rfind("/") + 1]
