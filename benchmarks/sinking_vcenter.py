"""A vCenter whose import leases lead to a fast sink, which throws every byte away: for ``benchmarks.restore``.

    python -m benchmarks.sinking_vcenter --sink URL --certificate PEM --files JSON --ready-file PATH

It is our simulator; only what happens to the bytes differs. A real server hashes what arrives on its own machine, and
here client and server share the cores: so its ``HttpNfcLeaseGetManifest`` answers what is known beforehand of the files
(size, SHA-1 and SHA-256, in the order of the package's disks, the nvram last). No byte is looked at.
"""

import argparse
import json
import signal
from pathlib import Path
from typing import Any

from hyperexport.model.tls import certificate_thumbprint
from hyperexport.simulator import Simulator, leases
from hyperexport.simulator.import_lease import ImportLease
from hyperexport.simulator.leases import OfferedFile


def lead_to(sink: str, thumbprint: str, known: list[dict[str, Any]]) -> None:
    """Have the leases of all imports lead to the sink, and answer the checksums that are known."""
    offer, device_url = ImportLease.offer, leases.device_url

    def offering(self: ImportLease) -> None:
        offer(self)
        disks = [file for file in self.files if file.disk]
        others = [file for file in self.files if not file.disk]
        for file, facts in zip([*disks, *others], known, strict=True):
            file.size, file.digests = facts["size"], {name: facts[name] for name in ("sha1", "sha256")}

    def leading(file: OfferedFile, host: Any) -> Any:
        url = device_url(file, host)
        url.url, url.sslThumbprint = sink + file.path, thumbprint
        return url

    ImportLease.offer = offering
    leases.device_url = leading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sink", required=True, help="https://HOST:PORT")
    parser.add_argument("--certificate", type=Path, required=True, help="the sink's, PEM")
    parser.add_argument("--files", required=True, help="JSON: a list of size, sha1 and sha256")
    parser.add_argument("--ready-file", type=Path, required=True, help="written when it serves: its environment")
    options = parser.parse_args()
    lead_to(options.sink, certificate_thumbprint(options.certificate.read_text(), "sha1"), json.loads(options.files))
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    with Simulator(()) as simulator:
        options.ready_file.with_suffix(".part").write_text(json.dumps(simulator.environment()))
        options.ready_file.with_suffix(".part").rename(options.ready_file)
        signal.sigwait(ending)


if __name__ == "__main__":
    main()
