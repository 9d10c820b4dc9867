"""Boots what an export holds on QEMU, in a machine that writes nothing to the store and reaches no network."""

from hyperexport.drill.booting import Boot, boot_on_qemu
from hyperexport.drill.qemu import QemuHost, find_firmware, find_qemu
from hyperexport.drill.serial_console import Expectation

__all__ = ["Boot", "Expectation", "QemuHost", "boot_on_qemu", "find_firmware", "find_qemu"]
