"""What is made of a lease's addresses: which disk each is, where it lies, and whom to believe there."""

import pytest
from pyVmomi import vim

from hyperexport.model.vm import DiskInfo
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.lease_files import lease_files

SHA256 = "ab" * 32
SHA1 = "cd" * 20


def url(key="/vm-1/ParaVirtualSCSIController0:0", address="https://esx7/nfc/ticket/disk-0.vmdk", **fields):
    return vim.HttpNfcLease.DeviceUrl(
        **{"key": key, "url": address, "sslThumbprint": "", "disk": True, "targetId": "disk-0.vmdk", **fields}
    )


def disk(key, unit=0, controller="ParaVirtualSCSIController0", unexportable=None):
    return DiskInfo(
        key=key,
        label=f"Hard disk {key}",
        capacity=1024,
        controller=controller,
        unit=unit,
        backing="FlatVer2",
        file="",
        unexportable=unexportable,
    )


def endpoint(**fields):
    return VSphereEndpoint(**{"url": "vc:8443", "username": "u", "password": "p", **fields})


def test_disks_are_matched_by_controller_and_unit_whatever_their_order():
    urls = [url("/vm-1/ParaVirtualSCSIController0:1"), url("/vm-1/VirtualAHCIController0:0")]
    disks = (disk(2000, 0, "VirtualAHCIController0"), disk(2001, 1))
    assert [file.disk_key for file in lease_files(urls, endpoint(), disks)] == [2001, 2000]


def test_keys_that_say_nothing_are_matched_by_order_without_the_disks_that_cannot_be_exported():
    urls = [url("/vm-1/disk:0"), url("/vm-1/disk:1")]
    disks = (disk(2000), disk(2001, 1, unexportable="independent"), disk(2002, 2))
    assert [file.disk_key for file in lease_files(urls, endpoint(), disks)] == [2000, 2002]


def test_a_match_that_would_be_a_guess_is_not_made():
    urls = [url("/vm-1/disk:0")]
    assert lease_files(urls, endpoint(), (disk(2000), disk(2001, 1)))[0].disk_key is None


def test_a_file_that_is_no_disk_is_no_disk():
    (file,) = lease_files([url("/vm-1/nvram", disk=False, fileSize=270_840, targetId=None)], endpoint(), ())
    assert (file.disk, file.disk_key, file.size, file.name) == (False, None, 270_840, "disk-0.vmdk")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://*/nfc/t/d.vmdk", "https://vc:8443/nfc/t/d.vmdk"),
        ("https://*:9443/nfc/t/d.vmdk", "https://vc:9443/nfc/t/d.vmdk"),
        ("https://esx7/nfc/t/d.vmdk", "https://esx7/nfc/t/d.vmdk"),
    ],
)
def test_a_star_stands_for_the_server_that_we_talk_to(given, meant):
    assert lease_files([url(address=given)], endpoint(), ())[0].url == meant


def test_a_host_is_believed_by_the_thumbprint_that_a_verified_server_gives():
    (file,) = lease_files([url(sslThumbprint=":".join(["CD"] * 20))], endpoint(thumbprint=SHA256), ())
    assert file.trust.thumbprint == SHA1


def test_without_a_thumbprint_a_host_needs_a_ca_even_if_the_server_is_pinned():
    (file,) = lease_files([url()], endpoint(thumbprint=SHA256, ca_pem="<ca>"), ())
    assert (file.trust.thumbprint, file.trust.ca_pem, file.trust.insecure) == (None, "<ca>", False)


def test_the_server_itself_is_believed_as_it_was_for_the_session():
    (file,) = lease_files([url(address="https://vc:8443/nfc/t/d.vmdk")], endpoint(thumbprint=SHA256), ())
    assert file.trust.thumbprint == SHA256


def test_what_an_unverified_server_says_of_its_hosts_counts_for_nothing():
    (file,) = lease_files([url(sslThumbprint=SHA1)], endpoint(insecure=True), ())
    assert file.trust.thumbprint is None
    assert file.trust.insecure


def test_the_ticket_in_the_address_shows_in_no_text():
    assert "ticket" not in repr(lease_files([url()], endpoint(), ())[0])
