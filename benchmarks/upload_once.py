"""One upload by the engine, as a process of its own that imports nothing else; started by ``benchmarks.upload``."""

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hyperexport.base.stop import StopSignal
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.model.manifest import new_export_id
from hyperexport.model.ownership import Owner
from hyperexport.model.tls import Trust
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.pipeline import transfer
from hyperexport.transfer.source import open_source

BUCKET = "bench"


def resident(kind: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at its peak (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


@dataclass(frozen=True)
class Uploaded:
    """What one run of ours says of itself."""

    size: int
    peak: int
    """Bytes of memory over what the imports took."""
    protection: str | None


def upload(source: str, source_ca: str, endpoint: str, *, ca: str, capacity: int, times: int) -> None:
    """Stream a disk into an object, several times over for a longer one, and print the memory that it took."""
    before = resident("VmRSS")
    stop = StopSignal()
    unlimited = Throttle(None)
    store = S3Store(S3Location(bucket=BUCKET), S3Settings(endpoint_url=endpoint, ca_bundle=Path(ca)), stop=stop)
    owner = Owner.of_this_process(run="bench", vcenter="none", vm="none")
    with store.stage("bench.00000000", new_export_id(datetime.now(UTC)), owner) as staging:
        sink = staging.create("disk.vmdk")
        for _ in range(times):
            with open_source(source, trust=Trust(ca_pem=Path(source_ca).read_text()), stop=stop) as stream:
                transfer(stream, [sink], throttle=unlimited, stop=stop, check=StreamCheck(capacity=capacity))
        stored = sink.finish()
    print(json.dumps(asdict(Uploaded(stored.size, resident("VmHWM") - before, stored.protection))))


if __name__ == "__main__":
    given = sys.argv[1:]
    upload(*given[:3], ca=given[3], capacity=int(given[4]), times=int(given[5]))
