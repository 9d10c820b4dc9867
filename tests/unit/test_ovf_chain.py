"""Disks of several files in a descriptor: added as the standard has it, and taken out to the last byte."""

from xml.etree import ElementTree as ET

import pytest

from hyperexport.formats.ovf_chain import BaseFile, with_bases, without_bases
from hyperexport.simulator.ovf_envelope import parse

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
OURS = b"""<?xml version="1.0"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <ovf:References>
    <ovf:File ovf:href="db01-disk-0.vmdk" ovf:id="file0" ovf:size="10" />
    <ovf:File ovf:href="db01-disk-1.vmdk" ovf:id="file1" ovf:size="11" />
  </ovf:References>
  <ovf:DiskSection>
    <ovf:Info>Disks</ovf:Info>
    <ovf:Disk ovf:capacity="99" ovf:diskId="vmdisk0" ovf:fileRef="file0" ovf:populatedSize="5" />
    <ovf:Disk ovf:capacity="99" ovf:diskId="vmdisk1" ovf:fileRef="file1" />
  </ovf:DiskSection>
  <ovf:VirtualSystem ovf:id="db01"><ovf:VirtualHardwareSection><ovf:Info>I</ovf:Info></ovf:VirtualHardwareSection>
  </ovf:VirtualSystem>
</ovf:Envelope>
"""
VMWARES = b"""<?xml version='1.0' encoding='UTF-8'?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:id="file10" ovf:href="db01-disk-1.vmdk"/><File ovf:id="file1" ovf:href="db01-disk-0.vmdk" \
ovf:size="10"></File></References>
  <DiskSection><Info>List of the virtual disks</Info>
    <Disk ovf:populatedSize="5" ovf:diskId="d1" ovf:capacity="99" ovf:fileRef="file1"/>
    <Disk ovf:diskId="d10" ovf:capacity="99" ovf:fileRef="file10"></Disk>
  </DiskSection>
  <VirtualSystem ovf:id="db01">
    <VirtualHardwareSection><Info>I</Info></VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""
BASES = [BaseFile("base-2000-a.vmdk", 77), BaseFile("base-2000-b.vmdk", 78)]
NAMES = [base.name for base in BASES]


@pytest.mark.parametrize("text", [OURS, VMWARES])
def test_what_a_disk_builds_on_is_described_as_its_parents(text: bytes) -> None:
    described = with_bases(text, "db01-disk-0.vmdk", BASES)
    root = ET.fromstring(described)
    files = {file.get(f"{OVF}id"): file for file in root.iter(f"{OVF}File")}
    disks = {files[disk.get(f"{OVF}fileRef")].get(f"{OVF}href"): disk for disk in root.iter(f"{OVF}Disk")}
    assert set(disks) == {"db01-disk-0.vmdk", "db01-disk-1.vmdk", *NAMES}
    chain, disk = [], disks["db01-disk-0.vmdk"]
    by_id = {disk.get(f"{OVF}diskId"): (name, disk) for name, disk in disks.items()}
    while parent := disk.get(f"{OVF}parentRef"):
        name, disk = by_id[parent]
        chain.append(name)
        assert disk.get(f"{OVF}capacity") == "99"
        assert disk.get(f"{OVF}populatedSize") is None
    assert chain == NAMES[::-1]
    assert disks["db01-disk-1.vmdk"].get(f"{OVF}parentRef") is None
    assert parse(described.decode()).unknown_sections == [("ChangedBlocksSection", True)]


@pytest.mark.parametrize("text", [OURS, VMWARES])
def test_it_is_taken_out_again_to_the_last_byte(text: bytes) -> None:
    described = with_bases(text, "db01-disk-0.vmdk", BASES)
    assert without_bases(described, "db01-disk-0.vmdk", NAMES) == text
    assert without_bases(text, "db01-disk-0.vmdk", NAMES) == text


def test_two_disks_of_several_files_are_described_and_taken_out_again() -> None:
    other = [BaseFile("base-2001-a.vmdk", 7)]
    one = with_bases(OURS, "db01-disk-0.vmdk", BASES)
    both = with_bases(one, "db01-disk-1.vmdk", other)
    assert both.count(b"<hx:ChangedBlocksSection") == 1
    back = without_bases(both, "db01-disk-0.vmdk", NAMES)
    assert without_bases(back, "db01-disk-1.vmdk", [other[0].name]) == OURS


@pytest.mark.parametrize("text", [OURS, VMWARES])
def test_importers_refuse_a_descriptor_that_describes_its_disks_in_an_unknown_form(text: bytes) -> None:
    unknown = text.replace(b'href="db01-disk-0.vmdk"', b"href='db01-disk-0.vmdk'")
    assert unknown != text
    described = with_bases(unknown, "db01-disk-0.vmdk", BASES)
    assert parse(described.decode()).unknown_sections == [("ChangedBlocksSection", True)]
    assert without_bases(described, "db01-disk-0.vmdk", NAMES) == unknown


def test_a_descriptor_without_a_machine_is_left_alone() -> None:
    assert with_bases(b"<Envelope/>", "db01-disk-0.vmdk", BASES) == b"<Envelope/>"
    assert without_bases(b"<Envelope/>", "db01-disk-0.vmdk", NAMES) == b"<Envelope/>"
