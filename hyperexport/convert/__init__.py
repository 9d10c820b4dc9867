"""An export converted to disk images or a self-contained package: for KVM, Proxmox, Hyper-V, a cloud.

Reads disks through :mod:`hyperexport.images` only. Whatever is written has the suffix ``.partial`` until all of it is
written and proved. This room must never change an export.
"""
