"""The proof that what is stored is what was read from vSphere.

Reads stores through their one interface and disks through ``formats``; compares what is there with the manifest, the
manifest with the package's own checksums and descriptor. Findings are values, not exceptions: the caller decides
what follows. This room must never know how an export was made, nor change one.
"""

from hyperexport.verify.export import ReadFiles, verify_export
from hyperexport.verify.findings import Finding, Verification

__all__ = ["Finding", "ReadFiles", "Verification", "verify_export"]
