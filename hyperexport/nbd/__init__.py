"""Disks served over the Network Block Device protocol, read-only, for qemu, libguestfs or anything that speaks it.

Only this room knows the protocol. It serves whatever can be read at a place and says where it is zero; it must never
know of stores and exports.
"""
