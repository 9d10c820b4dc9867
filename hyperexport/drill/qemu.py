"""QEMU's command line for a VM: the controllers that the guest knows, no network, every write into an overlay.

QEMU has VMware's own devices (pvscsi, LSI Logic), so the guest finds its disks with the drivers that it has and nothing
in it is changed. Option names: https://www.qemu.org/docs/master/system/invocation.html.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hyperexport.errors import ToolMissing
from hyperexport.model.hardware import Hardware
from hyperexport.model.manifest import FileEntry

PROGRAM: Final = "qemu-system-x86_64"
AGENT: Final = "org.qemu.guest_agent.0"
"""The port that QEMU's guest agent listens on: https://www.qemu.org/docs/master/interop/qemu-ga.html."""

_CONTROLLERS: Final = {"vmpvscsi": ("pvscsi", 64), "lsilogic": ("lsi53c895a", 7), "lsisas1068": ("mptsas1068", 8)}
"""QEMU's device for a SCSI controller, and how many disks one takes."""
_PORTS: Final = 6
"""Of an AHCI controller."""
_FIRMWARE: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
)
"""Where Debian, Fedora, Arch and SUSE put the EFI firmware: its code, and a template of its variables."""
_KVM: Final = Path("/dev/kvm")
_LEAST_MEMORY: Final = 256


class QemuHost(NamedTuple):
    """What this machine has to boot with."""

    program: str
    version: str
    """As QEMU says it, such as ``7.2.19``."""
    kvm: bool
    """Whether the processor runs the guest itself; if not, it is emulated, ten times slower or more."""

    @property
    def words(self) -> str:
        """For people: ``QEMU 7.2.19, KVM``."""
        return f"QEMU {self.version}, {'KVM' if self.kvm else 'emulated processor'}"


class BootDisk(NamedTuple):
    """A disk of the export, and where QEMU reads it."""

    entry: FileEntry
    uri: str
    """``nbd+unix:///...``."""


class Machine(NamedTuple):
    """A command line, and in words what is not as it was on vSphere."""

    command: list[str]
    warnings: list[str]


def find_qemu() -> QemuHost:
    """Look at what this machine has.

    Raises:
        ToolMissing: QEMU is not installed, or does not run.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise ToolMissing(
            f"{PROGRAM}, which boots the exports, is not installed",
            fix="Install qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Red Hat, SUSE)",
        )
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    words = said.split()
    if "version" not in words:
        raise ToolMissing(f"{program} --version printed {said[:80]!r}, so it is not QEMU")
    version = words[words.index("version") + 1]
    return QemuHost(program, version, kvm=os.access(_KVM, os.R_OK | os.W_OK))


def compose(
    host: QemuHost, hardware: Hardware, disks: Sequence[BootDisk], *, folder: Path, memory_mib: int | None = None
) -> Machine:
    """Build the command line for a machine that starts paused.

    Args:
        host: What this machine has.
        hardware: What the VM had.
        disks: The VM's disks, in its order; the first that can be booted from is.
        folder: A private folder; the machine's sockets ``qmp``, ``console`` and ``agent`` are made in it.
        memory_mib: MiB of memory; the VM's own, or half of what is free here if that is less, if None.

    Raises:
        ToolMissing: The VM needs EFI firmware, and none is installed.
    """
    warnings: list[str] = []
    command = [
        *_dying_with_us(),
        host.program,
        "-nodefaults",
        "-no-user-config",
        "-S",
        *("-display", "none"),
        *("-vga", "std"),
        *("-nic", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "q35" if hardware.efi else "pc"),
        *("-accel", "kvm" if host.kvm else "tcg,thread=multi"),
        *("-cpu", "host" if host.kvm else "max"),
        *("-smp", str(min(hardware.cpus, os.cpu_count() or 1))),
        *("-m", str(memory_mib or _memory(hardware, warnings))),
        *("-rtc", "base=localtime" if hardware.windows else "base=utc"),
        *("-chardev", f"socket,id=qmp,path={folder / 'qmp'},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,path={folder / 'console'},server=on,wait=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=agent,path={folder / 'agent'},server=on,wait=off"),
        *("-device", "virtio-serial", "-device", f"virtserialport,chardev=agent,name={AGENT}"),
    ]
    if hardware.efi:
        command += _firmware(folder, warnings, secure=hardware.secure_boot)
    command += _attached(hardware, disks, warnings)
    return Machine(command, warnings)


def _dying_with_us() -> list[str]:
    """A machine whose parent was killed would stand for ever; the kernel ends it with its parent."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _memory(hardware: Hardware, warnings: list[str]) -> int:
    most = max(_LEAST_MEMORY, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // (1 << 20))
    if hardware.memory_mib > most:
        warnings.append(f"it has {most} MiB of memory, half of what is free here, and not {hardware.memory_mib}")
    return min(hardware.memory_mib, most)


def find_firmware() -> tuple[str, str]:
    """Where the EFI firmware is, and a template of its variables.

    Raises:
        ToolMissing: None is installed.
    """
    found = next(((code, variables) for code, variables in _FIRMWARE if Path(code).exists()), None)
    if found is None:
        raise ToolMissing(
            "the VM boots by EFI, and no EFI firmware for QEMU is installed",
            fix="Install ovmf (Debian, Ubuntu) or edk2-ovmf (Red Hat)",
        )
    return found


def _firmware(folder: Path, warnings: list[str], *, secure: bool) -> list[str]:
    code, template = find_firmware()
    variables = folder / "variables.fd"
    shutil.copyfile(template, variables)
    warnings.append("it boots from the standard path of EFI: the entries in vSphere's nvram are not used")
    if secure:
        warnings.append("Secure Boot is off")
    return [
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={variables}"),
    ]


def _attached(hardware: Hardware, disks: Sequence[BootDisk], warnings: list[str]) -> Iterator[str]:
    """The disks on their controllers. Units are counted afresh, because QEMU's controllers take fewer of them."""
    places: dict[tuple[str, str | None, int], int] = {}
    made: set[str] = set()
    for order, disk in enumerate(disks):
        slot, differs = hardware.slot_of(disk.entry, nvme=True)
        warnings += [differs] if differs else []
        place = places[slot[:3]] = places.get(slot[:3], -1) + 1
        # Opened with snapshot=on, every write goes into a temporary file that has no name any more.
        yield from ("-drive", f"id=disk{order},if=none,format=raw,snapshot=on,cache=unsafe,file={_quoted(disk.uri)}")
        drive = f"drive=disk{order},bootindex={order}"
        if slot.bus == "ide":
            yield from ("-device", f"ide-hd,bus=ide.{slot.unit // 2},unit={slot.unit % 2},{drive}")
            continue
        if slot.bus == "nvme":
            yield from ("-device", f"nvme,serial=disk{order},{drive}")
            continue
        device, room = _CONTROLLERS[slot.model or ""] if slot.bus == "scsi" else ("ich9-ahci", _PORTS)
        controller = f"{slot.bus}{slot.controller}x{place // room}"
        if controller not in made:
            made.add(controller)
            yield from ("-device", f"{device},id={controller}")
        at = place % room
        if slot.bus == "scsi":
            yield from ("-device", f"scsi-hd,bus={controller}.0,scsi-id={at},{drive}")
        else:
            yield from ("-device", f"ide-hd,bus={controller}.{at},{drive}")


def _quoted(value: str) -> str:
    """A value of an option, in which QEMU takes a doubled comma for one."""
    return value.replace(",", ",,")
