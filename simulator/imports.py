"""VMs made of a VirtualMachineConfigSpec: ResourcePool.ImportVApp, and Folder.CreateVM_Task.

vSphere API: ResourcePool.ImportVApp. The VM is in the inventory from the call on, half made, and is gone again unless
its lease is completed. The client may have edited the spec that CreateImportSpec answered; what counts is what it says.
"""

import re
import uuid
from typing import Any

from pyVmomi import vim, vmodl

from hyperexport.simulator import devices, settings
from hyperexport.simulator.devices import adapters
from hyperexport.simulator.hardware import Settings, guest_name
from hyperexport.simulator.import_lease import ImportLease
from hyperexport.simulator.inventory import Datastore, Folder, Host, ResourcePool
from hyperexport.simulator.machine import Machine, Services, Site, make_home
from hyperexport.simulator.neighbours import free_instance_uuid, require_free
from hyperexport.simulator.reconfigure import apply
from hyperexport.simulator.sessions import require
from hyperexport.simulator.tasks import Task
from hyperexport.simulator.world import World

_PLACE = re.compile(r"\[(?P<store>[^\]]+)\](?: (?P<home>[^/]+)/.*)?")
_LARGEST_NAME = 80
"""Characters (vSphere API: VirtualMachineConfigSpec.name)."""


class Importer:
    """Makes VMs in a vCenter."""

    def __init__(self, world: World, services: Services) -> None:
        self._world = world
        self._services = services

    def import_vapp(self, pool: ResourcePool, spec: Any, folder: Any, host: Any) -> Any:
        """Begin an import; answer its lease.

        Raises:
            vmodl.MethodFault: The VM can't be there, or the spec asks for what the simulator does not know.
        """
        if not isinstance(spec, vim.vm.VmImportSpec):
            raise vmodl.fault.NotSupported(msg="The simulator imports single virtual machines.")
        if folder is None:
            raise settings.invalid("folder", "A folder is needed, since the pool is not a vApp.")
        config = spec.configSpec
        machine = self._begin(config, self._world.get(folder), pool, host)
        lease = ImportLease(
            machine,
            make=lambda: apply(machine, config),
            finish=lambda: _finish(machine, config),
            nvram=_nvram_wanted(config),
        )
        task_ref = self._services.tasks.start(pool, "ImportVApp", lease.run)
        lease.task = self._world.get(task_ref)
        return lease.ref

    def create_vm(self, folder: Folder, config: Any, pool: Any, host: Any) -> Any:
        """Begin to make a VM without content; answer the task."""
        machine = self._begin(config, folder, self._world.get(pool), host)

        def work(task: Task) -> Any:
            del task
            try:
                apply(machine, config)
            except vmodl.MethodFault:
                machine.destroy()
                raise
            _finish(machine, config)
            return machine.ref

        return self._services.tasks.start(folder, "CreateVM_Task", work)

    def _begin(self, config: Any, folder: Folder, pool: ResourcePool, host: Any) -> Machine:
        """Put a VM without devices into the inventory."""
        settings.refuse_unknown(config)
        if not config.name or len(config.name) > _LARGEST_NAME:
            raise vim.fault.InvalidName(
                msg=f"The name '{config.name}' is invalid.", name=config.name or "", entity=None
            )
        store, home = self._storage(config)
        require("Datastore.AllocateSpace", store)
        for network in _networks(self._services, config):
            require("Network.Assign", network)
        require_free(folder, config.name)
        site = Site(folder, self._host(pool, host), pool, store)
        identity = str(uuid.uuid4())
        fresh = Settings(
            name=config.name,
            home=make_home(home or config.name, store),
            uuid=str(uuid.uuid4()),
            instance_uuid=identity,
            guest_os=guest_name(config.guestId or "otherGuest64"),
            guest_id=config.guestId or "otherGuest64",
            cpus=1,
            memory_mb=128,
            firmware="bios",
            hardware_version=config.version or "vmx-21",
            devices=(devices.controller("ide", 0), devices.pci_controller()),
        )
        machine = Machine(self._world, fresh, site, self._services)
        machine.settings.instance_uuid = free_instance_uuid(machine, config.instanceUuid or identity)
        return machine

    def _storage(self, config: Any) -> tuple[Datastore, str | None]:
        path = (config.files.vmPathName if config.files else "") or ""
        found = _PLACE.fullmatch(path)
        for store in self._services.datacenter.datastore_folder.members:
            if found and isinstance(store, Datastore) and store.name == found["store"]:
                return store, found["home"]
        raise vim.fault.InvalidDatastorePath(msg=f"Invalid datastore path '{path}'.", datastorePath=path)

    def _host(self, pool: ResourcePool, host: Any) -> Host:
        hosts = pool.cluster.hosts
        if host is None:
            # vSphere API, ImportVApp: the host may be left out in a cluster with DRS, and nowhere else.
            if not pool.cluster.drs:
                raise settings.invalid("host", "A host is needed, since the cluster has no DRS.")
            return min(hosts, key=lambda each: len(each.vms))
        chosen = self._world.get(host)
        if chosen not in hosts:
            raise settings.invalid("host", "The host is not one of the pool's.")
        return chosen


def _finish(machine: Machine, config: Any) -> None:
    """The VM is whole: changes are tracked from now on, if they are to be."""
    machine.settings.change_tracking = bool(config.changeTrackingEnabled)
    machine.stunned()


def _networks(services: Services, config: Any) -> list[Any]:
    cards = adapters(change.device for change in config.deviceChange)
    named = {each.backing.network._moId for each in cards if getattr(each.backing, "network", None)}
    return [network for network in services.datacenter.network_folder.members if network.moid in named]


def _nvram_wanted(config: Any) -> bool:
    return any(option.key == "nvram" and str(option.value).startswith("ovf:") for option in config.extraConfig)
