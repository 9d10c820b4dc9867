"""Uploads of an import: verbs, checksums, damaged and cut files, and a datastore that fills up."""

# pyVmomi's stubs give a device's backing as its base class, which lacks most of the attributes.
# pyright: reportAttributeAccessIssue=false

import hashlib
import http.client
import ssl
from urllib.parse import urlsplit

import pytest
import urllib3
from pyVmomi import vim

from hyperexport.simulator import Fault, FaultKind
from tests.engine.import_client import (
    Target,
    eventually,
    export,
    named,
    same_disks,
    send,
    upload,
    url_of,
)
from tests.engine.simulator_client import find, finish

MIB = 1 << 20
pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_each_file_has_its_verb_and_any_other_gets_405(sim, target, with_nvram):
    result = target.spec(with_nvram.descriptor, "copy")
    lease = target.begin(result)
    disk, nvram = result.fileItem
    assert (disk.create, nvram.create) == (False, True)
    for item, verb in ((disk, "PUT"), (nvram, "POST"), (disk, "GET"), (nvram, "GET")):
        assert upload(url_of(lease, item).url, with_nvram.files[item.path], verb=verb) == 405
    assert [send(lease, item, with_nvram) for item in result.fileItem] == [200, 201]
    lease.Complete()
    finish(lease_entity(sim, target).Destroy_Task())


def lease_entity(sim, target):
    assert "copy" in named(sim)
    return find(target.service, "copy")


def test_a_file_that_is_not_a_disk_needs_the_overwrite_header(target, with_nvram):
    result = target.spec(with_nvram.descriptor, "copy")
    lease = target.begin(result)
    nvram = result.fileItem[1]
    assert upload(url_of(lease, nvram).url, b"x", verb="PUT", headers={}) == 412
    lease.Abort()


def test_nothing_is_uploaded_to_an_export(service):
    lease = find(service, "old").ExportVm()
    eventually(lambda: lease.state == "ready")
    assert upload(lease.info.deviceUrl[0].url, b"x" * 1000, verb="POST") == 405
    lease.Abort()


def test_an_upload_without_its_length_is_refused(begun):
    lease, item = begun
    parts = urlsplit(url_of(lease, item).url)
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port, context=ssl._create_unverified_context(), timeout=20
    )
    connection.request("POST", parts.path, body=iter([b"some", b"chunks"]), encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


@pytest.mark.usefixtures("names")
def test_a_damaged_disk_is_refused_and_may_be_sent_again(sim, begun, package):
    lease, item = begun
    whole = package.files[item.path]
    url = url_of(lease, item).url
    grain = whole.index(b"\x78\x01", 64 * 1024)
    damaged = whole[: grain + 600] + bytes([whole[grain + 600] ^ 0xFF]) + whole[grain + 601 :]
    for body in (whole[:-512], whole[: len(whole) // 2], damaged, b"not a disk" * 1000, whole + b"\0" * 512, b""):
        assert upload(url, body, verb="POST") == 500
        assert lease.GetManifest() == []
    with pytest.raises(vim.fault.InvalidState):
        lease.Complete()
    assert send(lease, item, package) == 200
    lease.Complete()
    assert same_disks(sim, "old", "copy")


def test_a_disk_of_another_capacity_is_refused(begun, with_nvram, service):
    lease, item = begun
    other = export(service, "src").files["disk-0.vmdk"]
    assert upload(url_of(lease, item).url, other, verb="POST") == 500


@pytest.mark.usefixtures("names")
def test_the_manifest_has_the_checksums_of_what_arrived(sim, target, with_nvram):
    result = target.spec(with_nvram.descriptor, "copy")
    lease = target.begin(result)
    keys = {item.path: url_of(lease, item).key for item in result.fileItem}
    lease.SetManifestChecksumType([vim.KeyValue(key=keys["disk-0.vmdk"], value="sha256")])
    sim.faults.add(Fault(FaultKind.MANIFEST_WRONG, vm="copy", disk=0))
    for item in result.fileItem:
        send(lease, item, with_nvram)
    wrong, right = lease.GetManifest(), lease.GetManifest()
    for path, body in with_nvram.files.items():
        entry = next(each for each in right if each.key == keys[path])
        assert (entry.size, entry.sha1) == (len(body), hashlib.sha1(body, usedforsecurity=False).hexdigest())
        assert entry.disk == path.endswith(".vmdk")
    disk = {each.key: each for each in right}[keys["disk-0.vmdk"]]
    assert (disk.checksumType, disk.checksum) == ("sha256", hashlib.sha256(with_nvram.files["disk-0.vmdk"]).hexdigest())
    assert {each.key: each for each in wrong}[disk.key].checksum != disk.checksum
    lease.Complete()


def test_an_upload_is_cut_on_demand_and_does_not_count(sim, begun, package):
    lease, item = begun
    sim.faults.add(Fault(FaultKind.UPLOAD_CUT, vm="copy", disk=0, at_byte=100_000))
    with pytest.raises(urllib3.exceptions.HTTPError):
        send(lease, item, package)
    assert lease.GetManifest() == []
    assert send(lease, item, package) == 200


def test_an_upload_answers_a_status_on_demand(sim, begun, package):
    sim.faults.add(Fault(FaultKind.HTTP_STATUS, vm="copy", status=503))
    lease, item = begun
    assert send(lease, item, package) == 503
    assert send(lease, item, package) == 200


def test_a_lease_that_ends_in_an_error_takes_the_vm_along(sim, target, package):
    sim.faults.add(Fault(FaultKind.LEASE_ERROR, vm="copy"))
    with pytest.raises(vim.fault.FileFault):
        target.begin(target.spec(package.descriptor, "copy"))
    assert "copy" not in named(sim)


def test_a_datastore_that_fills_up_fails_the_upload_and_the_lease(sim, begun, package):
    lease, item = begun
    sim.faults.add(Fault(FaultKind.DATASTORE_FULL, vm="copy", at_byte=50_000))
    assert send(lease, item, package) == 500
    assert isinstance(lease.error, vim.fault.NoDiskSpace)
    assert "copy" not in named(sim)


@pytest.mark.parametrize("provisioning", ["thin", "thick"])
def test_a_disk_that_does_not_fit_fails_without_a_fault_on_demand(sim, service, provisioning):
    sim.vm("src").guest_write(0, 8 * MIB, bytes(range(1, 256)) * 16384)
    package = export(service, "src")
    target = Target(service, datastore="tiny")
    result = target.spec(package.descriptor, "copy", diskProvisioning=provisioning)
    if provisioning == "thick":
        with pytest.raises(vim.fault.NoDiskSpace):
            target.begin(result)
    else:
        lease = target.begin(result)
        assert send(lease, result.fileItem[0], package) == 500
        assert isinstance(lease.error, vim.fault.NoDiskSpace)
    assert "copy" not in named(sim)
    assert target.store.summary.freeSpace == 3 * MIB
