"""The proof that what is stored is what was read from vSphere.

Reads stores through their one interface and disks through ``formats``; compares what is there with the manifest, the
manifest with the package's own checksums and descriptor. Findings are values, not exceptions: the caller decides
what follows. This room must never know how an export was made, nor change one.
"""
