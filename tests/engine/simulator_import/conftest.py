"""A simulated vCenter to import into, and packages that were exported from it."""

# pyVmomi's stubs give a device's backing as its base class, which lacks most of the attributes.
# pyright: reportAttributeAccessIssue=false

import pytest

from hyperexport.simulator import DatastoreSpec, Simulator
from tests.engine.import_client import (
    VMS,
    Target,
    export,
)
from tests.engine.simulator_client import find, finish, logged_in

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared():
    with Simulator(
        VMS,
        datastores=(DatastoreSpec("datastore1"), DatastoreSpec("tiny", 3 * MIB)),
        networks=("VM Network", "Isolated"),
        pools=("drills",),
        folders=("restored/linux",),
        boot_seconds=0.0,
    ) as simulator:
        yield simulator


@pytest.fixture
def sim(shared):
    yield shared
    shared.faults.clear()
    assert shared.leases() == []


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service


@pytest.fixture
def target(service):
    return Target(service)


@pytest.fixture(scope="module")
def package(shared):
    with logged_in(shared) as service:
        return export(service, "old")


@pytest.fixture(scope="module")
def with_nvram(shared):
    with logged_in(shared) as service:
        return export(service, "sas")


@pytest.fixture
def names(sim):
    """The VMs that a test makes are gone after it."""
    yield
    with logged_in(sim) as service:
        for vm in sim.vms():
            if vm.name not in {spec.name for spec in VMS}:
                found = find(service, vm.name)
                if found.runtime.powerState == "poweredOn":
                    finish(found.PowerOffVM_Task())
                finish(found.Destroy_Task())
        assert sim.detached_disks() == []


@pytest.fixture
def begun(sim, target, package):
    """An import of ``copy`` that waits for its only file: the lease and the file's item."""
    result = target.spec(package.descriptor, "copy")
    lease = target.begin(result)
    yield lease, result.fileItem[0]
    if any(each.moid == lease._moId for each in sim.leases()):
        lease.Abort()
