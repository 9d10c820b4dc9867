"""The vCenter's own services: its content, the search index, and the inventory that it starts with."""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import uuid
from collections.abc import Iterator
from typing import Any

from pyVmomi import vim

from hyperexport.simulator import inventory
from hyperexport.simulator.browser import DatastoreBrowser
from hyperexport.simulator.custom_fields import CustomFieldsManager
from hyperexport.simulator.folder_log import FolderLog
from hyperexport.simulator.furnish import furnish
from hyperexport.simulator.imports import Importer
from hyperexport.simulator.inventory import Cluster, Datacenter, Datastore, Entity, Folder, Host, Network
from hyperexport.simulator.machine import Machine, Services, Site
from hyperexport.simulator.ovf import OvfManager
from hyperexport.simulator.properties import PropertyCollector
from hyperexport.simulator.sessions import AuthorizationManager, SessionManager
from hyperexport.simulator.spec import DatastoreSpec, UserSpec, VmSpec
from hyperexport.simulator.tagging import Tagging
from hyperexport.simulator.tasks import TaskRunner
from hyperexport.simulator.views import ViewManager, below
from hyperexport.simulator.world import Managed, World, now


class ServiceInstance(Managed):
    """vim.ServiceInstance: where every client begins."""

    kind = vim.ServiceInstance

    def __init__(self, world: World, vcenter: "VCenter") -> None:
        super().__init__(world, "ServiceInstance")
        self._vcenter = vcenter
        about = inventory.about("VMware vCenter Server", "VirtualCenter", "vpx", "linux-x64")
        about.instanceUuid = str(uuid.uuid4())
        self._about = about

    @property
    def content(self) -> Any:
        vcenter = self._vcenter
        return vim.ServiceInstanceContent(
            rootFolder=vcenter.root.ref,
            propertyCollector=vcenter.collector.ref,
            viewManager=vcenter.views.ref,
            about=self._about,
            sessionManager=vcenter.sessions.ref,
            authorizationManager=vcenter.authorization.ref,
            searchIndex=vcenter.search.ref,
            ovfManager=vcenter.ovf.ref,
            customFieldsManager=vcenter.fields.ref,
        )

    @property
    def serverClock(self) -> Any:
        return now()

    def RetrieveServiceContent(self) -> Any:
        return self.content

    def CurrentTime(self) -> Any:
        return now()


class SearchIndex(Managed):
    """vim.SearchIndex: finding single objects without walking the inventory."""

    kind = vim.SearchIndex

    def __init__(self, world: World, root: Folder) -> None:
        super().__init__(world, "SearchIndex")
        self._root = root

    def FindByInventoryPath(self, inventoryPath: str) -> Any | None:
        # vSphere API: the root folder is not part of the path; a slash in front or at the end is allowed.
        place: Entity | None = self._root
        for part in inventoryPath.strip("/").split("/"):
            place = next((child for child in place.children() if child.name == part), None) if place else None
        return place.ref if place else None

    def FindChild(self, entity: Any, name: str) -> Any | None:
        parent = self.world.get(entity)
        return next((child.ref for child in parent.children() if child.name == name), None)

    def FindByUuid(self, datacenter: Any, uuid: str, vmSearch: bool, instanceUuid: bool | None) -> Any | None:
        return next(iter(self.FindAllByUuid(datacenter, uuid, vmSearch, instanceUuid)), None)

    def FindAllByUuid(self, datacenter: Any, uuid: str, vmSearch: bool, instanceUuid: bool | None) -> list[Any]:
        wanted = uuid.lower()
        if not vmSearch:
            return [host.ref for host in self._within(datacenter, Host) if host.uuid == wanted]
        machines = self._within(datacenter, Machine)
        return [
            vm.ref for vm in machines if wanted == (vm.settings.instance_uuid if instanceUuid else vm.settings.uuid)
        ]

    def FindByDnsName(self, datacenter: Any, dnsName: str, vmSearch: bool) -> Any | None:
        return next(iter(self.FindAllByDnsName(datacenter, dnsName, vmSearch)), None)

    def FindAllByDnsName(self, datacenter: Any, dnsName: str, vmSearch: bool) -> list[Any]:
        if not vmSearch:
            return [host.ref for host in self._within(datacenter, Host) if host.name == dnsName]
        return [vm.ref for vm in self._within(datacenter, Machine) if vm.guest.hostName == dnsName]

    def _within(self, datacenter: Any, kind: type) -> Iterator[Any]:
        start = self.world.get(datacenter) if datacenter else self._root
        return (each for each in below(start, recursive=True) if isinstance(each, kind))


class VCenter:
    """Everything that one simulated vCenter holds, made from its specs."""

    def __init__(
        self,
        world: World,
        vms: tuple[VmSpec, ...],
        users: tuple[UserSpec, ...],
        *,
        hosts: int,
        datacenter: str,
        lease_timeout: float,
        session_timeout: float,
        manifests: bool,
        datastores: tuple[DatastoreSpec, ...],
        networks: tuple[str, ...],
        pools: tuple[str, ...],
        folders: tuple[str, ...],
        boot_seconds: float,
        drs: bool,
        tags: tuple[str, ...] = (),
    ) -> None:
        self.world = world
        self.folder_log = FolderLog()
        self.tasks = TaskRunner(world)
        self.sessions = SessionManager(world, users, session_timeout)
        self.authorization = AuthorizationManager(world, self.sessions)
        self.collector = PropertyCollector(world, "propertyCollector")
        self.views = ViewManager(world, "ViewManager")
        self.ovf = OvfManager(world, "OvfManager")
        self.root = Folder(world, "Datacenters", None, [vim.Folder, vim.Datacenter], "group-d1")
        self.search = SearchIndex(world, self.root)
        self.fields = CustomFieldsManager(world)
        self.service = ServiceInstance(world, self)
        for each in (
            self.sessions,
            self.authorization,
            self.collector,
            self.views,
            self.ovf,
            self.search,
            self.service,
            self.fields,
        ):
            world.add(each)
        self.datacenter = Datacenter(world, datacenter, self.root)
        self.cluster = Cluster(world, f"{datacenter}_C0", self.datacenter, drs=drs)
        self.hosts = [Host(world, f"esx-{number:02d}", self.cluster) for number in range(1, hosts + 1)]
        self.datastores = {
            each.name: Datastore(world, each.name, self.datacenter, each.capacity) for each in datastores
        }
        self.browsers = [DatastoreBrowser(world, each, self.tasks) for each in self.datastores.values()]
        self.networks = {name: Network(world, name, self.datacenter) for name in networks}
        self.pools = {"": self.cluster.pool, **{name: self.cluster.pool.subpool(name) for name in pools}}
        self.services = Services(self.tasks, self.datacenter, lease_timeout, manifests, boot_seconds)
        importer = Importer(world, self.services)
        self.datacenter.vm_folder.importer = importer
        for pool in self.pools.values():
            pool.importer = importer
        for path in folders:
            self._folder(path)
        borne: dict[str, tuple[str, ...]] = {}
        for position, spec in enumerate(vms):
            machine = furnish(world, spec, self._site(spec, position), self.services, self.networks)
            self.fields.set_by_name(machine, spec.custom_attributes)
            borne[machine.moid] = spec.tags
            for name in spec.snapshots:
                machine.freeze(name, "")
        self.tagging = Tagging(self.sessions, borne, others=tags)

    def _site(self, spec: VmSpec, position: int) -> Site:
        store = self.datastores[spec.datastore] if spec.datastore else next(iter(self.datastores.values()))
        host = self.hosts[position % len(self.hosts)]
        return Site(self._folder(spec.folder), host, self.pools[spec.pool], store)

    def _folder(self, path: str) -> Folder:
        folder = self.datacenter.vm_folder
        for part in filter(None, path.split("/")):
            folder = folder.subfolder(part)
        return folder

    def machines(self) -> list[Machine]:
        """All VMs."""
        return self.world.all(Machine)
