"""The OVF descriptor: the server's own, or built here where it makes none."""

from xml.etree import ElementTree as ET

import pytest

from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.simulator import Fault, FaultKind
from hyperexport.vsphere.inventory import describe
from hyperexport.vsphere.lease import open_lease
from hyperexport.vsphere.ovf import OvfFileSpec, create_descriptor
from hyperexport.vsphere.snapshots import create_snapshot

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"


@pytest.fixture
def exported(session, vm, owner):
    """A snapshot, and the files that were made of it."""
    made = create_snapshot(
        session,
        vm,
        name="s",
        owner=owner,
        quiesce=False,
        memory=False,
        quiesce_required=False,
        tools_running=False,
        powered_on=True,
    )
    capacity = {disk.key: disk.capacity for disk in describe(session, vm).disks}
    with open_lease(session, vm, snapshot=made.record.moref, stop=StopSignal()) as lease:
        disks = [file for file in lease.files if file.disk]
    return made.record.moref, [
        OvfFileSpec(
            device_key=file.key,
            name=f"{vm.name}-disk-{number}.vmdk",
            size=1000 + number,
            capacity=capacity[file.disk_key],
            populated=512,
            disk_key=file.disk_key,
        )
        for number, file in enumerate(disks)
    ]


def test_the_descriptor_names_the_files_with_the_sizes_that_were_received(peer, session, vm, exported):
    snapshot, files = exported
    made = create_descriptor(session, vm, snapshot=snapshot, files=files)
    root = ET.fromstring(made.text)
    listed = {file.get(f"{OVF}href"): file.get(f"{OVF}size") for file in root.iter(f"{OVF}File")}
    assert listed == {file.name: str(file.size) for file in files}
    references = {file.get(f"{OVF}id") for file in root.iter(f"{OVF}File")}
    assert {disk.get(f"{OVF}fileRef") for disk in root.iter(f"{OVF}Disk")} == references
    built_here = any("built from its configuration" in warning for warning in made.warnings)
    assert built_here == (peer.name == "vcsim")


@pytest.mark.parametrize("peer", ["simulated"], indirect=True)
def test_errors_that_the_server_lists_are_heeded(session, vm, exported, faults):
    snapshot, files = exported
    faults.add(Fault(FaultKind.DESCRIPTOR_ERROR))
    with pytest.raises(errors.DescriptorFailed, match=vm.name):
        create_descriptor(session, vm, snapshot=snapshot, files=files)
