"""A disk with a real operating system: Linux, whose only program writes a number on the serial console.

The number is random and lies compressed in the initramfs: whatever shows it has booted these very bytes. The disk
starts by BIOS (syslinux) and by EFI (systemd-boot). No root is needed.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from hyperexport.drill.qemu import find_firmware
from tests.peers import MISSING, ROOT, require_program

SIZE = 96 << 20
_PARTS = ROOT / ".cache" / "peers" / "guest"
_MANAGER = "systemd-bootx64.efi"
_START = 1 << 20
_INIT = """#!/bin/busybox sh
echo
echo "HYPEREXPORT-GUEST-UP proof={number}"
while :; do /bin/busybox sleep 3600; done
"""
_PROGRAMS = ("syslinux", "mformat", "mcopy", "sfdisk", "cpio", "busybox")


class Parts(NamedTuple):
    """What a guest is made of."""

    kernel: Path
    boot_manager: Path
    """An EFI program that starts the kernel: systemd-boot."""


def find_parts() -> Parts | None:
    """The parts, as ``make peers`` has fetched them; None where they are not there."""
    kernel = next(_PARTS.glob("vmlinuz-*"), None)
    manager = _PARTS / _MANAGER
    return Parts(kernel, manager) if kernel and manager.exists() else None


def fetch_parts() -> Parts | None:
    """Fetch the parts out of Debian's packages, which are not installed; None where that does not work."""
    if (there := find_parts()) or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return there
    said = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=False
    )
    names = [line.split()[-1] for line in said.stdout.splitlines() if line.strip().startswith("Depends: linux-image-")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["apt-get", "-qq", "download", *names[:1], "systemd-boot-efi"]
        subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
        for package in folder.glob("*.deb"):
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True)
            subprocess.run(["tar", "x"], cwd=folder, input=unpacked.stdout, check=True)
        found = [*folder.glob("boot/vmlinuz-*"), *folder.glob(f"usr/lib/systemd/boot/efi/{_MANAGER}")]
        _PARTS.mkdir(parents=True, exist_ok=True)
        for part in found:
            shutil.copy(part, _PARTS / f".{part.name}")
            (_PARTS / f".{part.name}").rename(_PARTS / part.name)
    return find_parts()


def require_parts() -> Parts:
    """The parts; without them the test is skipped, in CI too: no minimal machine has them."""
    for program in ("qemu-system-x86_64", *_PROGRAMS):
        require_program(program, "no real guest has been booted")
    parts = find_parts()
    if parts is None:
        pytest.skip(f"{MISSING}no Linux kernel has been fetched, so no real guest has been booted: make peers does it")
    return parts


def make_disk(path: Path, number: str, parts: Parts) -> Path:
    """Write a disk, sparse, from which a guest boots that shows this number.

    Args:
        path: The raw image to be.
        number: What the guest shows, after ``proof=``.
        parts: What the guest is made of.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        initrd = _initramfs(folder, number)
        (folder / "syslinux.cfg").write_text(
            "DEFAULT guest\nPROMPT 0\nTIMEOUT 1\nLABEL guest\nLINUX vmlinuz.efi\nINITRD initrd.gz\n"
            "APPEND console=ttyS0 quiet panic=1\n"
        )
        (folder / "loader.conf").write_text("timeout 0\ndefault guest.conf\n")
        (folder / "guest.conf").write_text(
            "title guest\nlinux /vmlinuz.efi\ninitrd /initrd.gz\noptions console=ttyS0 quiet panic=1\n"
        )
        with path.open("wb") as disk:
            disk.truncate(SIZE)
        _run("sfdisk", "-q", path, text="label: dos\nstart=2048, type=6, bootable\n")
        inside = f"{path}@@{_START}"
        _run("mformat", "-i", inside, "-T", str((SIZE - _START) // 512), "-h", "16", "-s", "63", "-H", "2048", "::")
        _run("mmd", "-i", inside, "::EFI", "::EFI/BOOT", "::loader", "::loader/entries")
        _run("mcopy", "-i", inside, parts.kernel, "::vmlinuz.efi")
        _run("mcopy", "-i", inside, parts.boot_manager, "::EFI/BOOT/BOOTX64.EFI")
        _run("mcopy", "-i", inside, initrd, folder / "syslinux.cfg", "::")
        _run("mcopy", "-i", inside, folder / "loader.conf", "::loader/loader.conf")
        _run("mcopy", "-i", inside, folder / "guest.conf", "::loader/entries/guest.conf")
        _run("syslinux", "--install", "--offset", str(_START), path)
    program = Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes()[:440]
    with path.open("r+b") as disk:
        disk.write(program)
    return path


def _initramfs(folder: Path, number: str) -> Path:
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    (root / "dev").mkdir()
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    init = root / "init"
    init.write_text(_INIT.format(number=number))
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*"))) + "\n"
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    )
    initrd = folder / "initrd.gz"
    initrd.write_bytes(gzip.compress(packed.stdout, compresslevel=1))
    return initrd


def _run(*command: str | Path, text: str | None = None) -> None:
    environment = os.environ | {"MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(command, input=text, text=True, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"


def number_shown_by(image: Path, kind: str, controller: str = "pvscsi") -> str:
    """Boot an image on QEMU, and read the number that its guest shows on the serial console."""
    return _number_shown_by(
        *("-machine", "pc", "-device", f"{controller},id=s0"),
        *("-drive", f"id=d0,if=none,file={image},format={kind},snapshot=on", "-device", "scsi-hd,drive=d0,bus=s0.0"),
    )


_SCSI = {"vmpvscsi": "pvscsi", "lsilogic": "lsi53c895a", "lsisas1068": "mptsas1068"}


def number_shown_by_domain(definition: str, folder: Path) -> str:
    """Boot the machine that a libvirt domain with one disk describes, with its firmware and controller, on QEMU."""
    domain = ET.fromstring(definition)
    system, disk = domain.find("os"), domain.find("devices/disk")
    assert system is not None
    assert disk is not None
    found = (system.find("type"), *map(disk.find, ("source", "driver", "target")))
    machine, source, driver, target = (each.attrib for each in found if each is not None)
    firmware: list[str] = []
    if system.get("firmware") == "efi":
        code, template = find_firmware()
        shutil.copyfile(template, folder / "variables.fd")
        firmware = ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
        firmware += ["-drive", f"if=pflash,format=raw,unit=1,file={folder / 'variables.fd'}"]
    controller = domain.find(f"devices/controller[@type='{target['bus']}']")
    device = {"sata": "ich9-ahci", "scsi": _SCSI.get(controller.get("model", "") if controller is not None else "", "")}
    return _number_shown_by(
        *("-machine", machine["machine"], *firmware, "-device", f"{device[target['bus']]},id=c0"),
        *("-drive", f"id=d0,if=none,file={source['file']},format={driver['type']},snapshot=on"),
        *("-device", "ide-hd,drive=d0,bus=c0.0" if target["bus"] == "sata" else "scsi-hd,drive=d0,bus=c0.0"),
    )


def _number_shown_by(*machine: str) -> str:
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-m", "256", "-nodefaults", "-no-reboot"),
        *("-display", "none", "-serial", "stdio", *machine),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as guest:
        assert guest.stdout
        try:
            shown = b""
            for line in guest.stdout:
                shown += line
                if b"proof=" in line:
                    return line.decode().partition("proof=")[2].strip()
        finally:
            guest.kill()
    raise AssertionError(f"it shows no number: {shown.decode(errors='replace')[-2000:]}")


if __name__ == "__main__":
    fetched = fetch_parts()
    sys.stdout.write(
        f"peers: {'a Linux kernel for real guests is there' if fetched else 'no Linux kernel is to be had'}\n"
    )
