"""Where a VM is: read in as many requests however deep the inventory, and what cannot be read fails only itself."""

from collections.abc import Generator

import pytest
from pyVmomi import vim

from hyperexport.errors import ServerFault
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.vsphere.collector import properties
from hyperexport.vsphere.inventory import find_vm, vm_object
from hyperexport.vsphere.session import Session, connect
from hyperexport.vsphere.vm_place import Named, read_place
from tests.engine.conftest import endpoint_of

DEEP = "one/two/three/four/five"
DISKS = (DiskSpec(1 << 20),)


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    with Simulator([VmSpec("deep", folder=DEEP, disks=DISKS), VmSpec("shallow", disks=DISKS)]) as simulator:
        yield simulator


@pytest.fixture
def session(vcenter: Simulator) -> Generator[Session]:
    with connect(endpoint_of(vcenter)) as session:
        yield session
    vcenter.faults.clear()


def test_the_place_of_a_vm_takes_as_many_requests_however_deep_it_is(vcenter: Simulator, session: Session) -> None:
    places, asked = {}, {}
    for name in ("shallow", "deep"):
        ref, before = find_vm(session, name), vcenter.requests["RetrievePropertiesEx"]
        places[name] = read_place(session, ref)
        asked[name] = vcenter.requests["RetrievePropertiesEx"] - before
    assert (places["shallow"].folder, places["deep"].folder) == ("/DC0/vm", f"/DC0/vm/{DEEP}")
    assert {place.resource_pool for place in places.values()} == {"/DC0/host/DC0_C0/Resources"}
    assert {place.host for place in places.values()} <= {"esx-01", "esx-02"}
    assert {(place.datastores, place.unread) for place in places.values()} == {(("datastore1",), ())}
    assert asked["shallow"] == asked["deep"] == 2


def test_a_name_that_may_not_be_read_is_noted_and_fails_nothing(vcenter: Simulator, session: Session) -> None:
    ref = find_vm(session, "deep")
    vcenter.faults.add(Fault(FaultKind.METHOD_FAULT, method="name", fault="NoPermission"))
    place = read_place(session, ref)
    (noted,) = place.unread
    assert noted.startswith("folder: ")
    assert place.folder is None
    assert (place.resource_pool, place.datastores) == ("/DC0/host/DC0_C0/Resources", ("datastore1",))


def test_an_object_that_is_gone_fails_only_its_own_name(session: Session) -> None:
    ref = find_vm(session, "deep")
    values = properties(session, vm_object(session, ref), ("parent", "resourcePool"), doing="reading")
    gone = session.reference(vim.Datastore, "datastore-999999")
    values["datastore"] = [gone]
    named = Named(session, values, doing="reading the place")
    assert named.path(values["parent"]) == f"/DC0/vm/{DEEP}"
    with pytest.raises(ServerFault):
        named.name(gone)
