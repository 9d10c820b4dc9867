"""The peers themselves: vcsim demands its password and its certificate, and serves a real disk that was put into it."""

import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.conformance.vcsim import Vcsim, place_disk, running_vcsim

MIB = 1 << 20


@pytest.fixture(scope="session")
def guest_disk(qemu_img: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A raw disk with data, holes and more data, and the same disk as qemu-img streams it."""
    folder = tmp_path_factory.mktemp("guest")
    raw, stream = folder / "disk.raw", folder / "disk.vmdk"
    with raw.open("wb") as file:
        file.write(bytes(range(256)) * (MIB // 256))
        file.seek(40 * MIB)
        file.write(b"the guest wrote this" * 100_000)
        file.truncate(64 * MIB)
    convert = [qemu_img, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, stream]
    subprocess.run(convert, check=True)
    return raw, stream


def test_vcsim_is_of_the_version_that_pyvmomi_needs(vcsim: Vcsim):
    about = vcsim.govc("about")
    assert "API version:  8.0.3.0" in about


def test_govc_tells_its_version(vcsim: Vcsim):
    assert vcsim.govc("version").strip() == "govc 0.56.0"


def test_vcsim_refuses_a_wrong_password(vcsim: Vcsim):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        vcsim.govc("about", GOVC_PASSWORD="wrong")
    assert "Login failure" in failed.value.stderr


def test_vcsim_certificate_is_not_trusted_without_its_file(vcsim: Vcsim):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        vcsim.govc("about", GOVC_TLS_CA_CERTS="")
    assert "certificate signed by unknown authority" in failed.value.stderr


def test_vcsim_certificate_is_trusted_by_python_with_its_file(vcsim: Vcsim):
    context = ssl.create_default_context(cafile=str(vcsim.ca_file))
    with urllib.request.urlopen(f"https://{vcsim.host}:{vcsim.port}/about", context=context) as answer:
        assert answer.status == 200


def test_each_vm_has_as_many_disks_as_asked_for(go_peers: Path, tmp_path: Path):
    with running_vcsim(go_peers, tmp_path, "-disks", "3", "-vm", "1", "-host", "1") as server:
        assert len(server.govc("device.ls", "-vm", "DC0_H0_VM0", "disk-*").splitlines()) == 3


def test_a_real_disk_in_the_place_of_the_dummy_is_served_byte_for_byte(
    vcsim: Vcsim, guest_disk: tuple[Path, Path], qemu_img: Path, tmp_path: Path
):
    raw, stream = guest_disk
    vm = "DC0_C0_RP0_VM3"  # nobody else puts a disk in this one
    place_disk(vcsim, vm, stream, disk=1)
    vcsim.govc("snapshot.create", "-vm", vm, "for-the-export")
    # vcsim has no OvfManager.CreateDescriptor, so govc fails after the disks have come.
    with pytest.raises(subprocess.CalledProcessError, match=r"export\.ovf") as failed:
        vcsim.govc("export.ovf", "-vm", vm, "-snapshot", "for-the-export", str(tmp_path))
    assert "does not implement: CreateDescriptor" in failed.value.stderr
    vcsim.govc("snapshot.remove", "-vm", vm, "for-the-export")

    received = [file for file in (tmp_path / vm).iterdir() if file.stat().st_size > 64 * 1024]
    assert [file.read_bytes() for file in received] == [stream.read_bytes()]
    subprocess.run([qemu_img, "compare", "-f", "raw", "-F", "vmdk", raw, received[0]], check=True)
