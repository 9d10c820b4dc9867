"""Finding VMs by exact name or path, and reading what they are like."""

import json

import pytest
from pyVmomi import vim

from hyperexport import errors
from hyperexport.model.vm import PowerState, VmRef
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.vsphere import inventory
from hyperexport.vsphere.configuration import OMITTED, vm_config_json
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import (
    brief_many,
    datastore_free,
    describe,
    describe_many,
    disks_of_snapshot,
    find_vm,
    read_inventory,
    vm_object,
)
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.snapshots import snapshot_tree
from hyperexport.vsphere.tasks import wait_task

MIB = 1 << 20


@pytest.fixture(scope="module")
def estate():
    """A vCenter with folders, VMs of the same name, and every kind of disk that cannot be exported."""
    plain = (DiskSpec(MIB),)
    vms = (
        VmSpec("db01", folder="production/linux", disks=plain, snapshots=("before update", "after update")),
        VmSpec("web01", folder="production", disks=plain, powered_on=False),
        VmSpec("twin", folder="production", disks=plain),
        VmSpec("twin", folder="test", disks=plain),
        VmSpec("half/half 50%", folder="test", disks=plain),
        VmSpec("golden", folder="test", disks=plain, template=True, powered_on=False),
        VmSpec("vault", folder="test", disks=plain, encrypted=True),
        VmSpec(
            "mixed",
            disks=(
                DiskSpec(MIB),
                DiskSpec(MIB, mode="independent_persistent"),
                DiskSpec(MIB, backing="RawDiskMappingVer1"),
            ),
        ),
    )
    with Simulator(vms) as server:
        endpoint = VSphereEndpoint(
            url=server.url, username=server.username, password=server.password, ca_file=server.ca_file
        )
        with connect(endpoint) as session:
            yield session


def test_every_vm_is_listed_with_its_path(peer, session):
    rows = read_inventory(session).rows
    assert len(rows) >= 40
    assert len({row.ref.instance_uuid for row in rows}) == len(rows)
    assert all(row.ref.path.startswith("/DC0/vm/") for row in rows)
    assert [row.ref.path for row in rows] == sorted(row.ref.path for row in rows)


def test_a_vm_is_found_by_its_name_and_by_its_path(session, vm):
    assert find_vm(session, vm.name) == find_vm(session, vm.path) == vm


def test_a_name_that_is_nearly_right_is_not_guessed_but_suggested(session, vm):
    with pytest.raises(errors.VmNotFound, match=vm.name) as caught:
        find_vm(session, f"{vm.name}x")
    assert "Did you mean" in str(caught.value)


def test_of_near_names_one_that_differs_only_in_case_is_suggested_alone(session, vm):
    with pytest.raises(errors.VmNotFound) as caught:
        find_vm(session, vm.name.swapcase())
    assert str(caught.value).endswith(f". Did you mean {vm.name}?")


def test_equally_near_names_are_suggested_as_people_count_them():
    rows = tuple(
        inventory.VmRow(
            ref=VmRef(moref=f"vm-{n}", name=f"vm-{n}", path=f"/vm/vm-{n}", instance_uuid=""),
            power_state=PowerState.OFF,
            guest_os="",
            template=False,
        )
        for n in (19, 2, 10, 30, 11)
    )
    with pytest.raises(errors.VmNotFound, match=r"\. Did you mean vm-10 or vm-11 or vm-19\?$"):
        inventory.Inventory(rows, frozenset(), "vc").named("vm-1")


def test_a_name_like_nothing_is_not_found(session):
    with pytest.raises(errors.VmNotFound, match="zzzzzz"):
        find_vm(session, "zzzzzz")


def test_a_vm_is_described_whole(peer, session, vm):
    info = describe(session, vm)
    assert info.power_state is PowerState.ON
    assert info.cpus >= 1
    assert info.memory_mb >= 32
    assert info.hardware_version.startswith("vmx-")
    assert info.host
    assert len(info.datastores) == 1
    assert len(info.disks) == 2
    assert info.storage_bytes == sum(disk.capacity for disk in info.disks) > 0
    assert len({(disk.controller, disk.unit) for disk in info.disks}) == 2
    assert all(disk.file.startswith("[") and disk.unexportable is None for disk in info.disks)
    assert info.nics[0].mac
    assert info.nics[0].network
    assert info.snapshots == ()


def test_free_space_is_told_for_the_vms_datastores_only(session, vm):
    assert set(datastore_free(session, vm)) == set(describe(session, vm).datastores)
    assert all(free > 0 for free in datastore_free(session, vm).values())


@pytest.mark.parametrize("peer", ["vmware"], indirect=True)  # our simulator keeps no extraConfig
def test_the_whole_configuration_is_kept_as_json_without_what_may_be_secret(session, vm):
    settings = [
        vim.option.OptionValue(key="guestinfo.userdata", value="chpasswd: hunter2"),
        vim.option.OptionValue(key="RemoteDisplay.vnc.password", value="hunter2"),
        vim.option.OptionValue(key="ordinary.setting", value="kept"),
    ]
    reconfigure = vm_object(session, vm).ReconfigVM_Task
    task = session.call(reconfigure, vim.vm.ConfigSpec(extraConfig=settings), doing="preparing")
    wait_task(session, task, doing="preparing")
    text = vm_config_json(session, vm)
    extra = {entry["key"]: entry["value"] for entry in json.loads(text)["extraConfig"]}
    assert b"hunter2" not in text
    assert extra["guestinfo.userdata"] == OMITTED
    assert extra["ordinary.setting"] == "kept"
    assert json.loads(text)["hardware"]["numCPU"] >= 1


def test_a_vm_that_is_gone_is_an_error_and_not_an_empty_description(session, vm):
    with pytest.raises(errors.HyperExportError):
        describe(session, vm.model_copy(update={"moref": "vm-999999"}))


def test_a_name_that_several_bear_lists_their_paths(estate):
    with pytest.raises(errors.VmAmbiguous) as caught:
        find_vm(estate, "twin")
    assert "/DC0/vm/production/twin" in str(caught.value)
    assert "/DC0/vm/test/twin" in str(caught.value)
    assert find_vm(estate, "/DC0/vm/test/twin").path == "/DC0/vm/test/twin"


def test_a_path_is_looked_up_without_reading_every_vm(session, vm, monkeypatch):
    monkeypatch.setattr(inventory, "read_inventory", lambda _: pytest.fail("all VMs were read"))
    assert find_vm(session, vm.path) == find_vm(session, f"{vm.path}/") == vm


def test_a_path_in_another_case_is_another_path(session, vm):
    with pytest.raises(errors.VmNotFound, match="Did you mean"):
        find_vm(session, vm.path.replace("/vm/", "/VM/"))


def test_a_folders_path_is_no_vm(estate):
    with pytest.raises(errors.VmNotFound):
        find_vm(estate, "/DC0/vm/production")


def test_a_name_is_shown_and_found_as_people_write_it(estate):
    found = find_vm(estate, "half/half 50%")
    assert found.name == "half/half 50%"
    assert found.path == "/DC0/vm/test/half%2fhalf 50%25"
    assert find_vm(estate, found.path) == found


def test_a_gone_vm_is_left_out_and_the_others_are_described(estate):
    refs = [row.ref for row in read_inventory(estate).rows]
    gone = refs[0].model_copy(update={"moref": "vm-999999"})
    assert [info.ref for info in describe_many(estate, [refs[0], gone, refs[1]])] == refs[:2]
    with pytest.raises(errors.VmNotFound):
        describe(estate, gone)


def test_many_vms_are_described_in_as_many_requests_as_one(estate):
    rows = read_inventory(estate).rows
    assert describe_many(estate, [row.ref for row in rows]) == [describe(estate, row.ref) for row in rows]


def test_the_brief_form_says_of_every_vm_what_the_whole_description_says(peer, session):
    rows = read_inventory(session).rows
    assert [
        (brief.ref, brief.power_state, brief.guest_os, brief.cpus, brief.memory_mb, brief.storage_bytes)
        for brief in brief_many(session, rows)
    ] == [
        (info.ref, info.power_state, info.guest_os, info.cpus, info.memory_mb, info.storage_bytes)
        for info in describe_many(session, [row.ref for row in rows])
    ]
    assert all(brief.storage_bytes > 0 for brief in brief_many(session, rows))


def test_a_gone_vm_is_left_out_of_the_brief_form(estate):
    rows = read_inventory(estate).rows
    gone = rows[0].model_copy(update={"ref": rows[0].ref.model_copy(update={"moref": "vm-999999"})})
    assert [brief.ref for brief in brief_many(estate, [rows[0], gone, rows[1]])] == [row.ref for row in rows[:2]]


def test_a_vm_whose_devices_cannot_be_read_is_listed_with_an_unknown_size_and_that_is_said(caplog):
    with Simulator([VmSpec("db01"), VmSpec("db02")]) as server:
        endpoint = VSphereEndpoint(
            url=server.url, username=server.username, password=server.password, ca_file=server.ca_file
        )
        with connect(endpoint) as session:
            rows = read_inventory(session).rows
            fault = Fault(FaultKind.METHOD_FAULT, method="config.hardware.device", fault="NoPermission", times=1)
            server.faults.add(fault)
            sizes = {brief.name: brief.storage_bytes for brief in brief_many(session, rows)}
    assert set(sizes) == {"db01", "db02"}
    assert list(sizes.values()).count(None) == 1
    assert "could not be read" in caplog.text


def test_the_brief_form_survives_the_end_of_its_session_and_a_server_that_is_busy():
    with Simulator([VmSpec("db01", disks=(DiskSpec(MIB), DiskSpec(2 * MIB)))]) as server:
        endpoint = VSphereEndpoint(
            url=server.url, username=server.username, password=server.password, ca_file=server.ca_file
        )
        with connect(endpoint) as session:
            rows = read_inventory(session).rows
            server.faults.add(Fault(FaultKind.SESSION_EXPIRED))
            assert [brief.storage_bytes for brief in brief_many(session, rows)] == [3 * MIB]
            server.faults.add(Fault(FaultKind.HTTP_STATUS, method="RetrievePropertiesEx", status=503))
            assert [brief.storage_bytes for brief in brief_many(session, rows)] == [3 * MIB]
            assert len(server.faults.fired) == 2


def test_snapshots_are_read_with_their_depth_and_which_is_current(estate):
    tree = snapshot_tree(estate, find_vm(estate, "db01"))
    assert [(one.name, one.depth, one.current) for one in tree] == [
        ("before update", 1, False),
        ("after update", 2, True),
    ]
    assert describe(estate, find_vm(estate, "db01")).snapshot_depth == 2


def test_disks_that_cannot_be_exported_say_why(estate):
    disks = describe(estate, find_vm(estate, "mixed")).disks
    reasons = [disk.unexportable or disk.unsnapshottable for disk in disks]
    assert reasons[0] is None
    assert "independent" in reasons[1]
    assert "physical mode" in reasons[2]


def test_an_encrypted_vm_and_a_template_are_recognised(estate):
    vault = describe(estate, find_vm(estate, "vault"))
    assert vault.encrypted
    assert all(disk.unexportable for disk in vault.disks)
    assert describe(estate, find_vm(estate, "golden")).template


def test_disks_of_a_snapshot_bear_their_change_ids(estate):
    ref = find_vm(estate, "db01")
    (disk,) = disks_of_snapshot(estate, snapshot_tree(estate, ref)[-1].moref)
    assert "/" in disk.change_id
