"""What must not be twice among VMs, or may be and is a trouble: names, identities, addresses.

Sources: vSphere API, ``ConfigSpec.instanceUuid`` and ``VirtualEthernetCard.addressType``.
"""

import random
import re
import uuid
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from hyperexport.simulator.devices import adapters
from hyperexport.simulator.inventory import Folder

if TYPE_CHECKING:
    from hyperexport.simulator.machine import Machine

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


def others(vm: "Machine") -> list["Machine"]:
    """All other VMs of the vCenter."""
    return [each for each in vm.world.all(type(vm)) if each is not vm]


def require_free(folder: Folder, name: str) -> None:
    """Refuse a name that something in a folder has.

    Raises:
        vim.fault.DuplicateName: It is taken.
    """
    # vSphere API: names are compared without regard to case, and are unique in their folder.
    taken = next((each for each in folder.members if each.plain_name.lower() == name.lower()), None)
    if taken is not None:
        raise vim.fault.DuplicateName(msg=f"The name '{name}' already exists.", name=name, object=taken.ref)


def free_instance_uuid(vm: "Machine", wanted: str) -> str:
    """The instance UUID that a VM gets: another one where it was asked for none, or for that of another VM."""
    taken = {each.settings.instance_uuid for each in others(vm)}
    return wanted.lower() if wanted and wanted.lower() not in taken else str(uuid.uuid4())


def macs_of(vm: "Machine") -> set[str]:
    """The addresses of a VM's adapters."""
    return {each.macAddress for each in adapters(vm.settings.devices)}


def choose_mac(vm: "Machine", kind: str | None, wanted: str | None) -> tuple[str, str]:
    """The address that an adapter gets, and its type.

    One that is set by hand is taken as it is, even if another VM has it, as vCenter does; any other is made by the
    server, whatever the client gives.

    Raises:
        vim.fault.InvalidDeviceSpec: It is set by hand and is not the address of an adapter.
    """
    if kind and kind.lower() == "manual":
        address = (wanted or "").lower()
        if not _MAC.fullmatch(address) or int(address[:2], 16) & 1:
            raise vim.fault.InvalidDeviceSpec(msg=f"'{wanted}' is not the MAC address of an adapter.", deviceIndex=0)
        return address, "manual"
    taken = {mac for each in vm.world.all(type(vm)) for mac in macs_of(each)}
    while (address := f"00:50:56:{random.randbytes(3).hex(':')}") in taken:
        pass
    return address, "assigned"


def conflicts(vm: "Machine") -> dict[str, list[str]]:
    """What a VM has in common with others and should not: the names of those VMs, by MAC address or ``uuid``."""
    found: dict[str, list[str]] = {}
    for each in others(vm):
        for mac in macs_of(vm) & macs_of(each):
            found.setdefault(mac, []).append(each.settings.name)
        if each.settings.uuid == vm.settings.uuid:
            found.setdefault("uuid", []).append(each.settings.name)
    return found


def networks_of(vm: "Machine") -> list[Any]:
    """The networks that a VM's adapters are on."""
    ids = {each.backing.network._moId for each in adapters(vm.settings.devices)}
    return [network for network in vm.networks() if network.moid in ids]
