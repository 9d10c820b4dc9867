"""One disk from HTTPS straight into S3, hashed, with no local copy, against ``curl | aws s3 cp -`` to the same server.

Run as ``python -m benchmarks.upload``. Each way is a process of its own, its start included. Ours does more than the
peer: SHA-256 of the stream, proof of the disk's structure, a checksum of each part that the server is known to check.
The server throws bytes away (``s3sink``, needs Go), or is ``rclone serve s3`` and keeps them (``--server rclone``).
Memory is the peak over what the imports took.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness import (
    CACHE,
    HERE,
    Certificate,
    Measured,
    Reached,
    as_figures,
    certificate,
    compared,
    console,
    measure,
    save,
    serving,
    show,
    workspace,
    write_disk,
)
from benchmarks.upload_once import BUCKET, Uploaded
from hyperexport.base.units import GIB, MIB

OURS = "hyperexport"
AWS = "curl | aws s3 cp -"
AIMS = {AWS: 1.5}
MEMORY = 200 * MIB


@dataclass(frozen=True)
class Target:
    """An S3 server to upload to; its credentials are in the environment, where both ways look for them."""

    endpoint: str
    ca: Path
    environment: dict[str, str]


def run_upload(source: str, pair: Certificate, target: Target, capacity: int, times: int = 1) -> Uploaded:
    ours = [sys.executable, "-m", "benchmarks.upload_once"]
    command = [*ours, source, pair.cert, target.endpoint, target.ca, str(capacity), str(times)]
    done = subprocess.run(command, check=True, env=target.environment, stdout=subprocess.PIPE)
    return Uploaded(**json.loads(done.stdout))


def run_aws(aws: str, source: str, pair: Certificate, target: Target) -> None:
    script = 'set -e; curl -sf --cacert "$1" "$2" | "$3" --endpoint-url "$4" s3 cp - "s3://$5/disk.vmdk"'
    command = ["sh", "-c", script, "sh", pair.cert, source, aws, target.endpoint, BUCKET]
    subprocess.run(command, check=True, env=target.environment)


def environment(ca: Path, access: str, secret: str) -> dict[str, str]:
    given = {
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CA_BUNDLE": str(ca),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {**os.environ, **given}


@contextmanager
def sink_server(pair: Certificate) -> Generator[Target]:
    go = shutil.which("go")
    if go is None:
        sys.exit("Go is not here; `--server rclone` does without it")
    built = CACHE / "bench-s3sink"
    CACHE.mkdir(exist_ok=True)
    subprocess.run([go, "build", "-o", built, "."], cwd=HERE / "s3sink", check=True)
    command = [built, "-cert", pair.cert, "-key", pair.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            endpoint = f"https://127.0.0.1:{int(server.stdout.readline())}"
            yield Target(endpoint, pair.cert, environment(pair.cert, "bench", "bench"))
        finally:
            server.terminate()


@contextmanager
def rclone_server(folder: Path) -> Generator[Target]:
    from tests.engine.s3_servers import rclone_s3  # noqa: PLC0415 - the tests' server, needed only when asked for

    (folder / "rclone").mkdir()
    with rclone_s3(folder / "rclone") as server:
        server.make_bucket(BUCKET)
        yield Target(
            server.endpoint_url, server.ca_file, environment(server.ca_file, server.access_key, server.secret_key)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=2, help="GiB of the disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=("sink", "rclone"), default="sink")
    parser.add_argument("--memory", type=float, nargs="*", default=[1, 16], help="GiB of streams whose memory is shown")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    capacity = int(options.size * GIB)
    with workspace() as folder:
        pair, disk = certificate(folder), folder / "disk.vmdk"
        size = write_disk(disk, capacity)
        server = sink_server(pair) if options.server == "sink" else rclone_server(folder)
        with serving(disk, pair) as source, server as target:

            def ours() -> None:
                run_upload(source, pair, target, capacity)

            ways = {OURS: ours}
            aws = shutil.which("aws")
            if aws is None:
                console.print("the aws command is not here: nothing to compare with, ours is measured alone")
            else:
                ways[AWS] = lambda: run_aws(aws, source, pair, target)
            results = measure(ways, size=size, rounds=options.rounds, between=lambda: None)
            title = f"{size / GIB:.2f} GiB from HTTPS into S3 ({options.server})"
            show(title, results, ours=OURS, aims=AIMS if aws else {})
            memory = [
                run_upload(source, pair, target, capacity, times=max(1, round(length * GIB / size)))
                for length in options.memory
            ]
    for one in memory:
        console.print(
            f"{one.size / GIB:.1f} GiB: {one.peak / MIB:.0f} MiB of memory over the imports; {one.protection}"
        )
    figures = {"server": options.server, "ways": as_figures(results), "memory": [asdict(one) for one in memory]}
    save(options.json, "upload", figures, [compared_with_aws(results), *map(remembered, memory)])


def compared_with_aws(results: list[Measured]) -> Reached:
    figure = "straight to S3"
    if len(results) < 2:
        return Reached(f"{figure}: {OURS} against {AWS}", f">= {AIMS[AWS]:.1f}x", "no aws command here", None)
    return compared(figure, *results, aim=AIMS[AWS])


def remembered(one: Uploaded) -> Reached:
    figure = f"straight to S3: memory over the imports, {one.size / GIB:.0f} GiB of stream"
    return Reached(figure, f"< {MEMORY / MIB:.0f} MiB", f"{one.peak / MIB:.0f} MiB", one.peak < MEMORY)


if __name__ == "__main__":
    main()
