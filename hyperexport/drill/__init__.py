"""Boots what an export holds on QEMU, in a machine that writes nothing to the store and reaches no network."""

from hyperexport.drill.booting import Boot, boot_on_qemu
from hyperexport.drill.console import Expectation
from hyperexport.drill.machine import QemuHost, find_qemu

__all__ = ["Boot", "Expectation", "QemuHost", "boot_on_qemu", "find_qemu"]
