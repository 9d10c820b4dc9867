"""A plain client that imports into the simulator: pyVmomi and urllib3, nothing of the product."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import urllib3
from pyVmomi import vim

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.engine.simulator_client import fetch, find, finish, ready

DISK_TYPE = "application/x-vnd.vmware-streamVmdk"
MIB = 1 << 20

VMS = (
    VmSpec(
        "src",
        powered_on=False,
        disks=(DiskSpec(16 * MIB), DiskSpec(4 * MIB + 512, controller="sata"), DiskSpec(2 * MIB, controller="nvme")),
    ),
    VmSpec("old", powered_on=False, firmware="bios", nvram=False, disks=(DiskSpec(2 * MIB, controller="lsilogic"),)),
    VmSpec("sas", powered_on=False, adapter="e1000e", disks=(DiskSpec(2 * MIB, controller="lsisas"),)),
    VmSpec("ide", powered_on=False, adapter="e1000", disks=(DiskSpec(2 * MIB, controller="ide"),)),
)
"""VMs with each kind of disk controller."""


@dataclass
class Package:
    """What an export gives: the descriptor, and the files by their names."""

    descriptor: str
    files: dict[str, bytes]


def export(service: Any, name: str) -> Package:
    """Export a VM that is off."""
    vm = find(service, name)
    lease = vm.ExportVm()
    urls = ready(lease).deviceUrl
    files = {each.targetId: fetch(each.url) for each in urls}
    described = [
        vim.OvfManager.OvfFile(deviceId=each.key, path=each.targetId, size=len(files[each.targetId])) for each in urls
    ]
    lease.Complete()
    params = vim.OvfManager.CreateDescriptorParams(ovfFiles=described)
    result = service.content.ovfManager.CreateDescriptor(vm, params)
    assert not result.error
    return Package(result.ovfDescriptor, files)


def child(folder: Any, name: str) -> Any:
    """The object of this name in a folder."""
    return next(each for each in folder.childEntity if each.name == name)


@dataclass
class Target:
    """Where an import goes."""

    service: Any
    datastore: str = "datastore1"
    folder: Any = None

    def __post_init__(self) -> None:
        self.datacenter = self.service.content.rootFolder.childEntity[0]
        self.cluster = self.datacenter.hostFolder.childEntity[0]
        self.pool = self.cluster.resourcePool
        self.host = self.cluster.host[0]
        self.folder = self.folder or self.datacenter.vmFolder
        self.store = child(self.datacenter.datastoreFolder, self.datastore)

    def spec(self, descriptor: str, name: str, **params: Any) -> Any:
        """Ask for an import spec."""
        wanted = vim.OvfManager.CreateImportSpecParams(entityName=name, locale="", deploymentOption="", **params)
        return self.service.content.ovfManager.CreateImportSpec(descriptor, self.pool, self.store, wanted)

    def begin(self, result: Any) -> Any:
        """Begin an import and wait for its lease."""
        assert not result.error, result.error
        lease = self.pool.ImportVApp(result.importSpec, self.folder, self.host)
        ready(lease)
        return lease


def upload(url: str, body: Any, *, verb: str, headers: dict[str, str] | None = None) -> int:
    """Send a file; return the status."""
    with urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=20) as pool:
        usual = {"Content-Type": DISK_TYPE} if verb == "POST" else {"Overwrite": "t"}
        answer = pool.request(verb, url, body=body, headers=usual if headers is None else headers)
        return answer.status


def url_of(lease: Any, item: Any) -> Any:
    """The device URL of a file item."""
    return next(each for each in lease.info.deviceUrl if each.importKey == item.deviceId)


def send(lease: Any, item: Any, package: Package) -> int:
    """Send the file of an item as it is to be sent."""
    return upload(url_of(lease, item).url, package.files[item.path], verb="PUT" if item.create else "POST")


def restore(target: Target, package: Package, name: str, *, edit: Any = None, **params: Any) -> Any:
    """Import a package wholly; return the VM."""
    result = target.spec(package.descriptor, name, **params)
    assert not result.error, result.error
    if edit:
        edit(result.importSpec.configSpec)
    lease = target.begin(result)
    for item in result.fileItem:
        assert send(lease, item, package) in {200, 201}
    vm = lease.info.entity
    lease.Complete()
    return vm


@contextlib.contextmanager
def quiet(*kinds: Any) -> Any:
    """Ignore faults of cleaning up."""
    with contextlib.suppress(*kinds):
        yield


def power_on(vm: Any) -> None:
    """Power a VM on and wait for the task."""
    finish(vm.PowerOnVM_Task())


def same_disks(sim: Simulator, source: str, copy: str) -> bool:
    """Whether two VMs' disks hold the same bytes."""
    one, two = sim.vm(source), sim.vm(copy)
    sizes = one.state()["disks"], two.state()["disks"]
    return sizes[0] == sizes[1] and all(
        one.read_disk(number, 0, size) == two.read_disk(number, 0, size) for number, size in enumerate(sizes[0])
    )


def eventually(holds: Callable[[], object]) -> None:
    """Wait until it holds; fails after 90 s."""
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


def named(sim: Simulator) -> set[str]:
    """The names of all VMs."""
    return {vm.name for vm in sim.vms()}


def devices_of(vm: Any, kind: type[Any]) -> list[Any]:
    """The devices of a VM that are of this class."""
    return [each for each in vm.config.hardware.device if isinstance(each, kind)]
