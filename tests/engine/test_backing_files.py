"""When a disk was last written is told by the datastore, and shows every write and every power-on."""

import pytest

from hyperexport.model.vm import VmRef
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from hyperexport.vsphere.backing_files import backing_files
from hyperexport.vsphere.inventory import find_vm
from hyperexport.vsphere.session import connect
from tests.engine.conftest import endpoint_of

MIB = 1 << 20


@pytest.fixture
def server():
    vms = (VmSpec("off", powered_on=False, disks=(DiskSpec(4 * MIB), DiskSpec(2 * MIB))),)
    with Simulator(vms, users=(UserSpec("reader", "secret", frozenset({"VApp.Export"})),)) as server:
        yield server


@pytest.fixture
def session(server):
    with connect(endpoint_of(server)) as session:
        yield session


@pytest.fixture
def vm(session) -> VmRef:
    return find_vm(session, "off")


def test_every_file_of_a_disk_and_the_vms_configuration_are_told(session, vm):
    first, second = backing_files(session, vm).values()
    assert [file.path for file in first] == [
        "[datastore1] off/off-flat.vmdk",
        "[datastore1] off/off.vmdk",
        "[datastore1] off/off.vmx",
        "[datastore1] off/vmware.log",
    ]
    assert "[datastore1] off/off_1-flat.vmdk" in [file.path for file in second]


def test_what_nobody_touched_is_told_alike(session, vm):
    assert backing_files(session, vm) == backing_files(session, vm)


def test_a_write_shows_on_the_disk_that_was_written(server, session, vm):
    before = backing_files(session, vm)
    server.vm("off").guest_write(1, 0, b"x")
    after = backing_files(session, vm)
    assert [before[key] == after[key] for key in before] == [True, False]


def test_having_been_on_shows_on_every_disk(server, session, vm):
    before = backing_files(session, vm)
    server.vm("off").power_on()
    server.vm("off").power_off()
    after = backing_files(session, vm)
    assert [before[key] == after[key] for key in before] == [False, False]


@pytest.mark.parametrize("fault", ["NoPermission", "NotSupported"])
def test_a_server_that_does_not_tell_proves_nothing(server, session, vm, fault):
    server.faults.add(Fault(FaultKind.METHOD_FAULT, method="SearchDatastore_Task", fault=fault))
    assert backing_files(session, vm) == {}
