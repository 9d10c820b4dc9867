"""Files in a VM's datastores, by their address for HTTPS: ``/folder/<path>?dcPath=<datacenter>&dsName=<datastore>``.

vSphere Web Services SDK Programming Guide, "Datastore access". Only addresses are made here; nothing is opened.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from pyVmomi import vim

from hyperexport.errors import ServerFault
from hyperexport.model.vm import VmRef
from hyperexport.vsphere.collector import Properties, referred_with_ancestors
from hyperexport.vsphere.inventory import vm_object
from hyperexport.vsphere.names import unescape
from hyperexport.vsphere.session import Session

_DEEPEST: Final = 64


def folder_url(session: Session, ref: VmRef, path: str) -> str:
    """The address of a file; it is opened with the session's cookie.

    Args:
        session: The login.
        ref: The VM that the file belongs to.
        path: As vSphere names it, such as ``[datastore1] db01/db01.vmdk``.

    Raises:
        ServerFault: The path or the place of its datastore makes no sense.
    """
    doing = f"looking for {path}"
    store, bracket, name = path.removeprefix("[").partition("] ")
    if not (path.startswith("[") and bracket and name):
        raise ServerFault(f"{doing} failed: vSphere named this path, which is none in a datastore")
    read = list(referred_with_ancestors(session, vm_object(session, ref), "datastore", ("name", "parent"), doing=doing))
    places = {obj._GetMoId(): values for obj, values in read}
    for values in (values for obj, values in read if isinstance(obj, vim.Datastore)):
        kept = values.get("name", "")
        if store in {kept, unescape(kept)}:
            query = {"dcPath": _datacenter(places, values.get("parent"), doing=doing), "dsName": kept}
            address = session.endpoint.address
            return f"https://{address}/folder/{quote(name)}?{urlencode(query, quote_via=quote)}"
    raise ServerFault(f"{doing} failed: the VM has no datastore of that name")


def beside(url: str, name: str) -> str:
    """The address of another file in the same folder of a datastore."""
    path, mark, query = url.partition("?")
    return f"{path.rpartition('/')[0]}/{quote(name)}{mark}{query}"


def _datacenter(places: Mapping[str, Properties], obj: Any, *, doing: str) -> str:
    """The inventory path of the datacenter that an object is or is in, with the folders around it."""
    names: list[str] = []
    inside = True
    for _ in range(_DEEPEST):
        if obj is None or (values := places.get(obj._GetMoId())) is None:
            break
        above = values.get("parent")
        inside = inside and not isinstance(obj, vim.Datacenter)
        if not inside and above is not None:  # the root folder is not part of a path
            names.append(values.get("name", ""))
        obj = above
    if not names or obj is not None:
        raise ServerFault(f"{doing} failed: the datacenter of its datastore cannot be read")
    return "/".join(reversed(names))
