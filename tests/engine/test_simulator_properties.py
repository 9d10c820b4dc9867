"""Reading the simulator's inventory: selection, paging, waiting, views, searching."""

import threading

import pytest
from pyVmomi import vim, vmodl

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.engine.simulator_client import PC, find, logged_in

MIB = 1 << 20
VMS = tuple(VmSpec(f"vm-{number:03d}", folder=f"f{number % 3}", disks=(DiskSpec(MIB, used=0),)) for number in range(25))


@pytest.fixture(scope="module")
def sim():
    with Simulator(VMS, datacenter="DC0") as simulator:
        yield simulator


@pytest.fixture
def service(sim):
    with logged_in(sim) as service:
        yield service


def everything(content, **options):
    """Retrieve the names of all VMs by a container view, page by page."""
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    spec = PC.FilterSpec(
        objectSet=[
            PC.ObjectSpec(
                obj=view, skip=True, selectSet=[PC.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)]
            )
        ],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "runtime.powerState"])],
    )
    pages = [content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions(**options))]
    while pages[-1].token:
        pages.append(content.propertyCollector.ContinueRetrievePropertiesEx(pages[-1].token))
    view.Destroy()
    return pages


def test_pages_hold_what_was_asked_for_and_together_everything(service):
    pages = everything(service.RetrieveContent(), maxObjects=10)
    assert [len(page.objects) for page in pages] == [10, 10, 5]
    names = [obj.propSet[0].val for page in pages for obj in page.objects]
    assert sorted(names) == [spec.name for spec in VMS]


def test_a_page_token_serves_once(service):
    content = service.RetrieveContent()
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=vm) for vm in content.rootFolder.childEntity[0].vmFolder.childEntity],
        propSet=[PC.PropertySpec(type=vim.Folder, pathSet=["name"])],
    )
    page = content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions(maxObjects=1))
    content.propertyCollector.ContinueRetrievePropertiesEx(page.token)
    with pytest.raises(vmodl.fault.InvalidArgument):
        content.propertyCollector.ContinueRetrievePropertiesEx(page.token)


def test_selection_specs_that_name_each_other_walk_the_whole_tree(service):
    content = service.RetrieveContent()
    again = PC.SelectionSpec(name="folders")
    traversal = PC.TraversalSpec(
        name="folders",
        type=vim.Folder,
        path="childEntity",
        skip=False,
        selectSet=[
            again,
            PC.TraversalSpec(name="dc", type=vim.Datacenter, path="vmFolder", skip=False, selectSet=[again]),
        ],
    )
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=content.rootFolder, skip=True, selectSet=[traversal])],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    found = content.propertyCollector.RetrieveContents([spec])
    assert sorted(obj.propSet[0].val for obj in found) == [spec.name for spec in VMS]


def test_parents_can_be_walked_upwards(service):
    vm = find(service, "vm-004")
    up = PC.TraversalSpec(
        name="up", type=vim.ManagedEntity, path="parent", skip=False, selectSet=[PC.SelectionSpec(name="up")]
    )
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=vm, selectSet=[up])],
        propSet=[PC.PropertySpec(type=vim.ManagedEntity, pathSet=["name"])],
    )
    names = [obj.propSet[0].val for obj in service.content.propertyCollector.RetrieveContents([spec])]
    assert names == ["vm-004", "f1", "vm", "DC0", "Datacenters"]


def test_a_property_that_does_not_exist_is_refused(service):
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=find(service, "vm-001"))],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["config.noSuchThing"])],
    )
    with pytest.raises(vmodl.query.InvalidProperty) as refused:
        service.content.propertyCollector.RetrieveContents([spec])
    assert refused.value.name == "config.noSuchThing"


def test_unset_properties_are_left_out(service):
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=find(service, "vm-001"))],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["snapshot", "config.hardware.device", "name"])],
    )
    found = service.content.propertyCollector.RetrieveContents([spec])[0]
    assert {each.name for each in found.propSet} == {"config.hardware.device", "name"}


def test_all_properties_of_every_kind_of_object_can_be_read(service):
    content = service.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [], True)
    kinds = {type(obj) for obj in view.view}
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=obj) for obj in view.view],
        propSet=[PC.PropertySpec(type=kind, all=True) for kind in kinds],
    )
    found = content.propertyCollector.RetrieveContents([spec])
    assert {type(obj.obj) for obj in found} == kinds
    assert kinds == {
        vim.Datacenter, vim.Folder, vim.VirtualMachine, vim.HostSystem, vim.ClusterComputeResource,
        vim.ResourcePool, vim.Datastore, vim.Network,
    }  # fmt: skip
    view.Destroy()


def test_waiting_tells_what_changed_and_only_that(sim, service):
    vm = find(service, "vm-007")
    collector = service.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(
        PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=vm)],
            propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "runtime.powerState"])],
        ),
        True,
    )
    first = collector.WaitForUpdatesEx("", PC.WaitOptions(maxWaitSeconds=20))
    assert {each.name for each in first.filterSet[0].objectSet[0].changeSet} == {"name", "runtime.powerState"}
    assert first.filterSet[0].objectSet[0].kind == "enter"
    assert collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=0)) is None
    sim.vm("vm-007").power_off()
    second = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=20))
    (change,) = second.filterSet[0].objectSet[0].changeSet
    assert (change.name, change.val) == ("runtime.powerState", "poweredOff")
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        collector.WaitForUpdatesEx("77", PC.WaitOptions(maxWaitSeconds=0))
    collector.Destroy()


def test_a_limited_update_says_that_it_is_truncated_and_the_next_brings_the_rest(service):
    content = service.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    collector = content.propertyCollector.CreatePropertyCollector()
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=obj) for obj in view.view],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    collector.CreateFilter(spec, True)
    version, sizes, truncated = "", [], []
    for _ in range(3):
        updates = collector.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=20, maxObjectUpdates=10))
        version = updates.version
        sizes.append(len(updates.filterSet[0].objectSet))
        truncated.append(updates.truncated)
    assert sizes == [10, 10, 5]
    assert truncated == [True, True, False]
    collector.Destroy()
    view.Destroy()


def test_a_wait_can_be_cancelled(service):
    collector = service.content.propertyCollector.CreatePropertyCollector()
    raised = []

    def wait():
        try:
            collector.WaitForUpdatesEx("", None)
        except vmodl.fault.RequestCanceled as fault:
            raised.append(fault)

    thread = threading.Thread(target=wait)
    thread.start()
    while thread.is_alive():
        collector.CancelWaitForUpdates()
        thread.join(0.02)
    assert len(raised) == 1
    collector.Destroy()


def test_a_destroyed_view_is_gone(service):
    content = service.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    view.Destroy()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = view.view


def test_views_follow_the_type_and_the_depth_that_they_were_made_with(service):
    content = service.RetrieveContent()
    flat = content.viewManager.CreateContainerView(content.rootFolder, [], False)
    assert [each.name for each in flat.view] == ["DC0"]
    hosts = content.viewManager.CreateContainerView(content.rootFolder, [vim.HostSystem, vim.Datastore], True)
    assert sorted(each.name for each in hosts.view) == ["datastore1", "esx-01", "esx-02"]
    flat.Destroy()
    hosts.Destroy()


def test_single_objects_are_found_by_path_uuid_and_name(sim, service):
    index = service.content.searchIndex
    vm = find(service, "vm-003")
    handle = sim.vm("vm-003")
    assert index.FindByInventoryPath("/DC0/vm/f0/vm-003")._moId == handle.moref
    assert index.FindByInventoryPath("DC0/vm/f0/vm-003/")._moId == handle.moref
    assert index.FindByInventoryPath("/DC0/vm/f1/vm-003") is None
    assert index.FindByUuid(None, vm.config.uuid, True)._moId == handle.moref
    assert index.FindByUuid(None, handle.instance_uuid, True, True)._moId == handle.moref
    assert index.FindByUuid(None, handle.instance_uuid, True, False) is None
    assert index.FindByDnsName(None, "vm-003", True)._moId == handle.moref
    assert index.FindByDnsName(None, "esx-02", False).name == "esx-02"
    assert index.FindChild(vm.parent, "vm-003")._moId == handle.moref


def test_names_with_slashes_are_escaped_as_vsphere_does():
    with Simulator((VmSpec("a/b 100%", disks=(DiskSpec(MIB),)),)) as sim, logged_in(sim) as service:
        vm = find(service, "a%2fb 100%25")
        assert service.content.searchIndex.FindByInventoryPath(sim.vm("a/b 100%").path)._moId == vm._moId


def test_an_object_that_never_was_is_not_found(service):
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vim.VirtualMachine("vm-99999", service._stub).name


def test_a_method_that_the_simulator_does_not_have_says_so(service):
    with pytest.raises(vmodl.fault.NotSupported):
        find(service, "vm-001").UpgradeVM_Task("vmx-21")


def test_every_request_is_counted(sim, service):
    before = sim.requests.get("CurrentTime", 0)
    service.CurrentTime()
    assert sim.requests["CurrentTime"] == before + 1
