"""The package's own checksums (``.mf``) against the manifest's.

DSP0243 (OVF), section 5.1: one line for each file, ``SHA256(name)= hex``; the checksums' own file is not among them.
"""

import re
from collections.abc import Iterator

from hyperexport.model.manifest import ExportManifest, FileRole

_LINE = re.compile(r"SHA256\(([^/\\\n]+)\)= ([0-9a-f]{64})")
_LISTED = frozenset({FileRole.DESCRIPTOR, FileRole.DISK, FileRole.BASE, FileRole.NVRAM})


def check_checksums(data: bytes, manifest: ExportManifest) -> Iterator[str]:
    """Every way in which the ``.mf`` and the manifest disagree, in words."""
    expected = {entry.name: entry.sha256 for entry in manifest.files if entry.role in _LISTED}
    told: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if not found:
            yield f"line {number} is not a checksum"
        elif found[1] in told:
            yield f"line {number} names {found[1]} again"
        else:
            told[found[1]] = found[2]
    yield from (f"it does not name {name}" for name in expected.keys() - told.keys())
    yield from (f"it names {name}, which is not in the manifest" for name in told.keys() - expected.keys())
    for name in expected.keys() & told.keys():
        if expected[name] != told[name]:
            yield f"its SHA-256 of {name} is not the one in the manifest"
