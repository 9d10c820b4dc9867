"""The inventory around the VMs: folders, the datacenter, hosts, the cluster, the pool, datastores, networks.

They hold each other by attributes that have the names of vSphere's properties. Nothing here changes after the start
but the lists of VMs and the datastores' free space.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import uuid
from collections.abc import Iterable
from typing import Any

from pyVmomi import vim

from hyperexport.base.units import GIB
from hyperexport.simulator.load import HostLoad
from hyperexport.simulator.soap import API_VERSION
from hyperexport.simulator.world import Managed, World, now, refs

GREEN = vim.ManagedEntity.Status.green


class Entity(Managed):
    """What everything in the inventory has: a name, a parent, recent tasks."""

    prefix = "entity"

    def __init__(self, world: World, name: str, parent: "Entity | None", moid: str | None = None) -> None:
        super().__init__(world, moid or world.new_id(self.prefix))
        self._name = name
        self._parent = parent
        self.recent_tasks: list[Any] = []
        self.custom_values: dict[int, str] = {}
        """Its values of custom attributes, by their keys."""
        self.overallStatus = GREEN
        self.configStatus = GREEN
        self.alarmActionsEnabled = True
        self.effectiveRole = [-1]
        world.add(self)

    @property
    def name(self) -> str:
        # vSphere API: ManagedEntity.name has %, / and \ escaped as %25, %2f and %5c.
        return self._name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")

    @property
    def plain_name(self) -> str:
        """Its name as people write it."""
        return self._name

    @property
    def parent(self) -> Any | None:
        return self._parent.ref if self._parent else None

    @property
    def recentTask(self) -> list[Any]:
        return refs(self.recent_tasks)

    @property
    def availableField(self) -> list[Any]:
        return [each for each in self.world.fields.field if each.managedObjectType in {None, self.kind}]

    @property
    def customValue(self) -> list[Any]:
        return [vim.CustomFieldsManager.StringValue(key=key, value=value) for key, value in self.custom_values.items()]

    @property
    def value(self) -> list[Any]:
        return self.customValue

    def setCustomValue(self, key: str, value: str) -> None:
        self.world.fields.SetField(self.ref, key, value)

    @property
    def path(self) -> str:
        """Its inventory path, such as ``/DC0/vm/production/web01``."""
        return f"{self._parent.path}/{self.name}" if self._parent else ""

    @property
    def place(self) -> Managed:
        return self

    @property
    def authorities(self) -> tuple[Managed, ...]:
        return (self._parent,) if self._parent else ()

    def children(self) -> Iterable["Entity"]:
        """The inventory objects directly below it, as container views see them."""
        return ()


class Folder(Entity):
    """vim.Folder."""

    kind = vim.Folder
    prefix = "group"

    def __init__(
        self, world: World, name: str, parent: Entity | None, types: list[Any], moid: str | None = None
    ) -> None:
        super().__init__(world, name, parent, moid)
        self.childType = types
        self.members: list[Entity] = []
        self.importer: Any = None
        """What makes VMs in it; it comes with the vCenter."""

    @property
    def childEntity(self) -> list[Any]:
        return refs(self.members)

    def children(self) -> Iterable[Entity]:
        return tuple(self.members)

    def CreateVM_Task(self, config: Any, pool: Any, host: Any) -> Any:
        return self.importer.create_vm(self, config, pool, host)

    def subfolder(self, name: str) -> "Folder":
        """The folder of this name below it, made if there is none."""
        for member in self.members:
            if isinstance(member, Folder) and member._name == name:
                return member
        created = Folder(self.world, name, self, self.childType)
        created.importer = self.importer
        self.members.append(created)
        return created


class Datacenter(Entity):
    """vim.Datacenter, with its four folders."""

    kind = vim.Datacenter
    prefix = "datacenter"

    def __init__(self, world: World, name: str, root: Folder) -> None:
        super().__init__(world, name, root)
        root.members.append(self)
        self.vm_folder = Folder(world, "vm", self, [vim.Folder, vim.VirtualMachine, vim.VirtualApp])
        self.host_folder = Folder(world, "host", self, [vim.Folder, vim.ComputeResource])
        self.datastore_folder = Folder(world, "datastore", self, [vim.Folder, vim.Datastore, vim.StoragePod])
        self.network_folder = Folder(world, "network", self, [vim.Folder, vim.Network, vim.DistributedVirtualSwitch])
        self.configuration = vim.Datacenter.ConfigInfo()

    @property
    def vmFolder(self) -> Any:
        return self.vm_folder.ref

    @property
    def hostFolder(self) -> Any:
        return self.host_folder.ref

    @property
    def datastoreFolder(self) -> Any:
        return self.datastore_folder.ref

    @property
    def networkFolder(self) -> Any:
        return self.network_folder.ref

    @property
    def datastore(self) -> list[Any]:
        return self.datastore_folder.childEntity

    @property
    def network(self) -> list[Any]:
        return self.network_folder.childEntity

    def children(self) -> Iterable[Entity]:
        return (self.vm_folder, self.host_folder, self.datastore_folder, self.network_folder)


class _HoldsVms(Entity):
    """What VMs run on or live on."""

    def __init__(self, world: World, name: str, parent: Entity | None) -> None:
        super().__init__(world, name, parent)
        self.vms: list[Any] = []

    @property
    def vm(self) -> list[Any]:
        return refs(self.vms)


class Datastore(_HoldsVms):
    """vim.Datastore: a VMFS volume."""

    kind = vim.Datastore
    prefix = "datastore"

    def __init__(self, world: World, name: str, datacenter: Datacenter, capacity: int) -> None:
        super().__init__(world, name, datacenter.datastore_folder)
        self.capacity = capacity
        datacenter.datastore_folder.members.append(self)
        self.homes: set[str] = set()
        """The folders in it that belong to VMs."""
        self.disks: dict[str, Any] = {}
        """The disks whose files lie in it, by path, whether a VM has them or not."""
        self.browser: Any = None
        """vSphere API: Datastore.browser; made with the vCenter, because its searches are tasks."""
        self.url = f"ds:///vmfs/volumes/{uuid.uuid5(uuid.NAMESPACE_URL, name)}/"
        self.capability = vim.Datastore.Capability(
            directoryHierarchySupported=True,
            rawDiskMappingsSupported=True,
            perFileThinProvisioningSupported=True,
            storageIORMSupported=True,
            nativeSnapshotSupported=False,
            seSparseSupported=True,
        )

    @property
    def free_space(self) -> int:
        """Bytes that are not taken by VMs."""
        homeless = sum(disk.taken for disk in self.disks.values() if not disk.attached)
        return max(0, self.capacity - homeless - sum(vm.committed for vm in self.vms))

    @property
    def summary(self) -> Any:
        return vim.Datastore.Summary(
            datastore=self.ref,
            name=self.name,
            url=self.url,
            capacity=self.capacity,
            freeSpace=self.free_space,
            uncommitted=sum(vm.uncommitted for vm in self.vms),
            accessible=True,
            multipleHostAccess=True,
            type="VMFS",
            maintenanceMode="normal",
        )

    @property
    def info(self) -> Any:
        return vim.host.VmfsDatastoreInfo(
            name=self.name,
            url=self.url,
            freeSpace=self.free_space,
            maxFileSize=64 * 1024 * GIB,
            maxMemoryFileSize=64 * 1024 * GIB,
            timestamp=now(),
        )


class Network(_HoldsVms):
    """vim.Network: a standard port group."""

    kind = vim.Network
    prefix = "network"

    def __init__(self, world: World, name: str, datacenter: Datacenter) -> None:
        super().__init__(world, name, datacenter.network_folder)
        datacenter.network_folder.members.append(self)

    @property
    def summary(self) -> Any:
        return vim.Network.Summary(network=self.ref, name=self.name, accessible=True, ipPoolName="")


class ResourcePool(_HoldsVms):
    """vim.ResourcePool: the cluster's root pool, or one below it."""

    kind = vim.ResourcePool
    prefix = "resgroup"

    def __init__(self, world: World, cluster: "Cluster", name: str = "Resources", above: Entity | None = None) -> None:
        super().__init__(world, name, above or cluster)
        self.cluster = cluster
        self.pools: list[ResourcePool] = []
        self.importer: Any = None
        """What makes VMs of import specs; it comes with the vCenter."""
        allocation = vim.ResourceAllocationInfo(reservation=0, limit=-1, expandableReservation=True)
        self.config = vim.ResourceConfigSpec(cpuAllocation=allocation, memoryAllocation=allocation)
        usage = vim.ResourcePool.ResourceUsage(
            reservationUsed=0,
            reservationUsedForVm=0,
            unreservedForPool=0,
            unreservedForVm=0,
            overallUsage=0,
            maxUsage=0,
        )
        self.runtime = vim.ResourcePool.RuntimeInfo(memory=usage, cpu=usage, overallStatus=GREEN)

    @property
    def owner(self) -> Any:
        return self.cluster.ref

    @property
    def resourcePool(self) -> list[Any]:
        return refs(self.pools)

    def children(self) -> Iterable[Entity]:
        return tuple(self.pools)

    def subpool(self, name: str) -> "ResourcePool":
        """Make a pool below it."""
        pool = ResourcePool(self.world, self.cluster, name, self)
        self.pools.append(pool)
        return pool

    def ImportVApp(self, spec: Any, folder: Any, host: Any) -> Any:
        return self.importer.import_vapp(self, spec, folder, host)

    @property
    def summary(self) -> Any:
        return vim.ResourcePool.Summary(name=self.name, config=self.config, runtime=self.runtime)


class Cluster(Entity):
    """vim.ClusterComputeResource: the hosts that share their datastores and networks."""

    kind = vim.ClusterComputeResource
    prefix = "domain-c"

    def __init__(self, world: World, name: str, datacenter: Datacenter, *, drs: bool) -> None:
        super().__init__(world, name, datacenter.host_folder)
        self.drs = drs
        """Whether it chooses the hosts of its VMs by itself."""
        datacenter.host_folder.members.append(self)
        self.datacenter = datacenter
        self.hosts: list[Host] = []
        self.pool = ResourcePool(world, self)
        self.configurationEx = vim.cluster.ConfigInfoEx(
            vmSwapPlacement="vmDirectory",
            dasConfig=vim.cluster.DasConfigInfo(enabled=False),
            drsConfig=vim.cluster.DrsConfigInfo(enabled=drs),
        )

    @property
    def host(self) -> list[Any]:
        return refs(self.hosts)

    @property
    def resourcePool(self) -> Any:
        return self.pool.ref

    @property
    def datastore(self) -> list[Any]:
        return self.datacenter.datastore

    @property
    def network(self) -> list[Any]:
        return self.datacenter.network

    @property
    def summary(self) -> Any:
        count = len(self.hosts)
        return vim.ClusterComputeResource.Summary(
            totalCpu=count * Host.cores * Host.mhz,
            totalMemory=count * Host.memory,
            numCpuCores=count * Host.cores,
            numCpuThreads=count * Host.cores * 2,
            effectiveCpu=count * Host.cores * Host.mhz,
            effectiveMemory=count * Host.memory // 1024**2,
            numHosts=count,
            numEffectiveHosts=count,
            overallStatus=GREEN,
            currentFailoverLevel=0,
            numVmotions=0,
        )

    def children(self) -> Iterable[Entity]:
        return (*self.hosts, self.pool)


class Host(_HoldsVms):
    """vim.HostSystem: one ESXi host, with the files that its NFC service offers at the moment."""

    kind = vim.HostSystem
    prefix = "host"
    cores = 16
    mhz = 2600
    memory = 256 * GIB

    def __init__(self, world: World, name: str, cluster: Cluster) -> None:
        super().__init__(world, name, cluster)
        cluster.hosts.append(self)
        self._cluster = cluster
        self.uuid = str(uuid.uuid4())
        self.netloc = ""
        """Where its NFC service listens, as ``address:port``."""
        self.thumbprint = ""
        """SHA-1 of its certificate, in colon hex."""
        self.certificate = ""
        """Its certificate as PEM."""
        self.offered: dict[str, Any] = {}
        """What can be downloaded, by path."""
        self.load = HostLoad()
        self.runtime = vim.host.RuntimeInfo(
            connectionState=vim.HostSystem.ConnectionState.connected,
            powerState=vim.HostSystem.PowerState.poweredOn,
            inMaintenanceMode=False,
            bootTime=now(),
        )
        self.configManager = vim.host.ConfigManager()

    @property
    def datastore(self) -> list[Any]:
        return self._cluster.datastore

    @property
    def network(self) -> list[Any]:
        return self._cluster.network

    @property
    def summary(self) -> Any:
        return vim.host.Summary(
            host=self.ref,
            hardware=vim.host.Summary.HardwareSummary(
                vendor="Simulated",
                model="Simulated host",
                uuid=self.uuid,
                memorySize=self.memory,
                cpuModel="Simulated CPU",
                cpuMhz=self.mhz,
                numCpuPkgs=1,
                numCpuCores=self.cores,
                numCpuThreads=self.cores * 2,
                numNics=2,
                numHBAs=1,
            ),
            runtime=self.runtime,
            # A real host has here the name by which vCenter reaches it; a simulated one's name resolves nowhere.
            config=vim.host.Summary.ConfigSummary(
                name=self.netloc.rpartition(":")[0] or self.name,
                port=int(self.netloc.rpartition(":")[2] or 443),
                sslThumbprint=self.thumbprint,
                product=about("VMware ESXi", "HostAgent", "embeddedEsx", "vmnix-x86"),
                vmotionEnabled=True,
                faultToleranceEnabled=False,
            ),
            quickStats=vim.host.Summary.QuickStats(overallCpuUsage=0, overallMemoryUsage=0, uptime=3600),
            overallStatus=GREEN,
            rebootRequired=False,
        )

    @property
    def hardware(self) -> Any:
        summary = self.summary.hardware
        return vim.host.HardwareInfo(
            systemInfo=vim.host.SystemInfo(vendor=summary.vendor, model=summary.model, uuid=summary.uuid),
            cpuInfo=vim.host.CpuInfo(
                numCpuPackages=1, numCpuCores=self.cores, numCpuThreads=self.cores * 2, hz=self.mhz * 10**6
            ),
            cpuPkg=[
                vim.host.CpuPackage(
                    index=0,
                    vendor="intel",
                    hz=self.mhz * 10**6,
                    busHz=10**8,
                    description=summary.cpuModel,
                    threadId=list(range(self.cores * 2)),
                )
            ],
            memorySize=self.memory,
        )


def about(name: str, api_type: str, product_line: str, os_type: str) -> Any:
    """Build ``AboutInfo`` for a product of the version that is simulated."""
    return vim.AboutInfo(
        name=name,
        fullName=f"{name} 8.0.3 build-24022515 (simulated)",
        vendor="VMware, Inc.",
        version="8.0.3",
        build="24022515",
        localeVersion="INTL",
        localeBuild="000",
        osType=os_type,
        productLineId=product_line,
        apiType=api_type,
        apiVersion=API_VERSION,
        licenseProductName="VMware VirtualCenter Server",
        licenseProductVersion="8.0",
    )
