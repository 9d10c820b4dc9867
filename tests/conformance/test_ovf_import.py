"""govc, which we did not write, imports the descriptors that we build."""

import json
import os
from pathlib import Path

from hyperexport.base.stop import StopSignal
from hyperexport.model.ownership import Owner
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import describe, find_vm
from hyperexport.vsphere.lease import open_lease
from hyperexport.vsphere.ovf import OvfFileSpec, create_descriptor
from hyperexport.vsphere.session import connect
from hyperexport.vsphere.snapshots import create_snapshot, remove_snapshot
from tests.conformance.vcsim import Vcsim

SOURCE = "DC0_H0_VM3"


def export(server: Vcsim, folder: Path) -> Path:
    """Write an OVF folder of the VM with small stand-ins for its disks (vcsim throws the bytes away)."""
    endpoint = VSphereEndpoint(
        url=server.url, username=server.username, password=server.password, ca_file=server.ca_file
    )
    with connect(endpoint) as session:
        vm = find_vm(session, SOURCE)
        made = create_snapshot(
            session,
            vm,
            name="for an import",
            owner=Owner.of_this_process(run="import", vcenter=session.address, vm=vm.instance_uuid),
            quiesce=False,
            memory=False,
            quiesce_required=False,
            tools_running=False,
            powered_on=True,
        )
        capacity = {disk.key: disk.capacity for disk in describe(session, vm).disks}
        with open_lease(session, vm, snapshot=made.record.moref, stop=StopSignal()) as lease:
            disks = [file for file in lease.files if file.disk]
        files = [
            OvfFileSpec(
                device_key=file.key,
                name=f"{SOURCE}-disk-{number}.vmdk",
                size=65536,
                capacity=capacity[file.disk_key or 0],
                disk_key=file.disk_key,
            )
            for number, file in enumerate(disks)
        ]
        descriptor = create_descriptor(session, vm, snapshot=made.record.moref, files=files)
        remove_snapshot(session, vm, made.record.moref)
    for file in files:
        header = bytes.fromhex("4b444d56 03000000 01000300") + b"\0" * 65524  # streamOptimized, as govc looks at it
        (folder / file.name).write_bytes(header)
    path = folder / f"{SOURCE}.ovf"
    path.write_text(descriptor.text)
    return path


def test_govc_reads_and_imports_a_descriptor_that_was_built_here(vcsim: Vcsim, tmp_path: Path) -> None:
    path = export(vcsim, tmp_path)
    spec = json.loads(vcsim.govc("import.spec", str(path)))
    assert [network["Name"] for network in spec["NetworkMapping"]] == ["DC0_DVPG0"]
    name = f"imported-{os.getpid()}"
    vcsim.govc("import.ovf", "-name", name, "-ds", "LocalDS_0", "-pool", "/DC0/host/DC0_H0/Resources", str(path))
    devices = json.loads(vcsim.govc("device.info", "-json", "-vm", name))["devices"]
    disks = [device for device in devices if "capacityInBytes" in device]
    source = json.loads(vcsim.govc("device.info", "-json", "-vm", SOURCE))["devices"]
    assert [disk["capacityInBytes"] for disk in disks] == [
        device["capacityInBytes"] for device in source if "capacityInBytes" in device
    ]
    vcsim.govc("vm.destroy", name)
