"""Boots what an export holds on QEMU, in a machine that writes nothing to the store and reaches no network."""
