"""How large the disks of many VMs are, in one reading that turns none of their devices into objects.

vSphere has no property for a VM's provisioned capacity: the sum has to be taken over ``config.hardware.device``, which
is a hundred XML elements for each VM.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, Final

from pyVmomi import vmodl

from hyperexport.vsphere.raw_collection import RawObject, collect_raw, field_of, type_of
from hyperexport.vsphere.session import Session

_PAGE: Final = 250
"""VMs in one request: one and a half megabytes of answer."""

_REQUESTS: Final = 2
_DEVICES: Final = "config.hardware.device"

_query = vmodl.query.PropertyCollector


def disk_capacities(session: Session, vms: Sequence[Any]) -> dict[str, int]:
    """Read the sum of each VM's disks' capacities, in bytes, by managed object id.

    A VM whose devices the server does not give, or does not let this user read, is not in it.

    Args:
        session: The login.
        vms: The VMs, as objects of the API.

    Raises:
        ServerFault: Among others where a VM is gone; the API's ManagedObjectNotFound is its cause.
    """
    parts = [vms[begin : begin + _PAGE] for begin in range(0, len(vms), _PAGE)]
    # The server prepares one answer while the other is read.
    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="capacities") as pool:
        return dict(chain.from_iterable(pool.map(partial(_read, session), parts)))


def _read(session: Session, vms: Sequence[Any]) -> list[tuple[str, int]]:
    wanted = _query.FilterSpec(
        objectSet=[_query.ObjectSpec(obj=vm, skip=False) for vm in vms],
        propSet=[_query.PropertySpec(type=type(vms[0]), pathSet=[_DEVICES], all=False)],
    )
    read = collect_raw(session, wanted, page=_PAGE, doing=f"reading the disks of {len(vms)} VMs")
    return [(vm.moref, _sum(vm)) for vm in read if _DEVICES in vm]


def _sum(vm: RawObject) -> int:
    # capacityInBytes came with vSphere 5.5 and may be unset (VirtualDisk in VMware's API reference).
    return sum(
        vm.parsed(field_of(device, "capacityInBytes"), "a disk's capacity")
        or vm.parsed(field_of(device, "capacityInKB"), "a disk's capacity") * 1024
        for device in vm.members(_DEVICES)
        if type_of(device) == "VirtualDisk"
    )
