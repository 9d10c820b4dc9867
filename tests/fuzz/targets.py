"""The parsers that read bytes which others wrote, each as one function of bytes that must not fail.

Whatever the bytes are: what comes out is a value, or an error of our own family, or (where people type it) the
ValueError that our faces put into words; in memory and time that the length of the bytes bounds. Anything else is a
finding. ``python -m tests.fuzz`` feeds them by coverage, ``test_fuzz.py`` by hypothesis.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

from pydantic import ValidationError
from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapResponseDeserializer, SoapStubAdapter

from hyperexport.base.machine import ProcessIdentity
from hyperexport.base.text import escape_controls, one_line
from hyperexport.base.units import MIB, format_bytes, format_duration, format_elapsed, parse_duration
from hyperexport.cli.output import pair_lines
from hyperexport.errors import HyperExportError, UsageError
from hyperexport.formats.ova import read_index
from hyperexport.formats.vmdk_image import open_image
from hyperexport.formats.vmdk_stream import StreamCheck
from hyperexport.model.bandwidth_windows import parse_window, split_windows
from hyperexport.model.manifest import ExportManifest, sealed
from hyperexport.model.ownership import Owner
from hyperexport.model.tls import normalise_thumbprint
from hyperexport.options.selection import Selection
from hyperexport.simulator.disks import Disk
from hyperexport.store.base import StoredExport
from hyperexport.store.contents import StoreContents
from hyperexport.store.s3_settings import S3Location
from hyperexport.verify.checksums import check_checksums
from hyperexport.verify.descriptor import check_descriptor, refused_parts
from hyperexport.views.mail import brief_line as mail_line
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import FAILURES
from hyperexport.vsphere.handshake import _offered_versions
from hyperexport.vsphere.lease_files import lease_files
from hyperexport.vsphere.names import escape, unescape
from tests.engine.verifiable import contents, descriptor
from tests.examples import VM, an_export

Target = Callable[[bytes], object]


@dataclass
class Bytes:
    """A file of these bytes, that counts what is read of it."""

    data: bytes
    read: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        self.read += length
        assert self.read <= 2000 * len(self.data) + 100 * MIB, "reading does not end"
        return self.data[offset : offset + length]


ENDPOINT = VSphereEndpoint.model_validate({"url": "vc.example.com", "username": "u", "password": "p"})


@cache
def disk_bytes() -> bytes:
    return b"".join(Disk(MIB, seed=1, used=0.1).freeze().stream())


@cache
def ova_bytes() -> bytes:
    from datetime import UTC, datetime

    from hyperexport.formats import ova

    class Part:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def __enter__(self) -> "Part":
            return self

        def __exit__(self, *_: object) -> None: ...

        def chunks(self) -> Iterator[bytes]:
            yield self.data

    packed = bytearray()
    files = {"db01.ovf": b"<Envelope/>", "db01.mf": b"SHA256(db01.ovf)= 00\n", "db01-disk-0.vmdk": b"KDMV" * 200}
    parts = [ova.Part(name, len(data), lambda data=data: Part(data)) for name, data in files.items()]
    ova.write(parts, packed.extend, modified=datetime(2026, 11, 25, tzinfo=UTC))
    return bytes(packed)


# -- disks and packages


def vmdk_stream(data: bytes) -> None:
    """The first byte chooses how the stream is cut into pieces."""
    step = (data[0] if data else 1) * 37 + 1
    check = StreamCheck()
    with suppress(HyperExportError):
        for begin in range(1, len(data), step):
            check.feed(memoryview(data)[begin : begin + step])
            assert len(check._partial) <= 512
            assert 0 <= check.position <= check.capacity
        check.finish()


def vmdk_image(data: bytes) -> None:
    with suppress(HyperExportError):
        image = open_image(Bytes(data))
        assert 0 < image.capacity <= 64 << 40
        with suppress(HyperExportError):
            image.walk()
        with suppress(HyperExportError):
            assert len(image.read(0, 3 * MIB)) == min(3 * MIB, image.capacity)
        for offset, content in image.grains():
            assert offset + len(content) <= image.capacity


def ova(data: bytes) -> None:
    with suppress(HyperExportError):
        for member in read_index(Bytes(data)):
            assert not set(member.name) & set("/\\:\0")
            assert member.name not in {".", ".."}
            assert 0 <= member.offset <= member.offset + member.size <= len(data)


def ovf(data: bytes) -> None:
    for problem in (*check_descriptor(data, an_export()), *refused_parts(data)):
        assert problem


def checksums(data: bytes) -> None:
    list(check_checksums(data, an_export()))


def manifest(data: bytes) -> None:
    with suppress(HyperExportError):
        # Sealed, for the fuzzer would not come past the seal.
        found = ExportManifest.from_json(sealed(data.rpartition(b'"seal": "')[0]), source="export.json")
        assert ExportManifest.from_json(found.to_json(), source="export.json") == found
        assert found.started < an_export().started.replace(year=9999) or found.started.year == 9999
        for line in pair_lines(
            StoreContents(store="/exports", exports=(StoredExport(folder="db01.4f0e7a52", manifest=found),))
        ):
            assert len(line.splitlines()) <= 1
        format_bytes(found.stored_bytes)
        format_elapsed(found.transfer.seconds)
        for entry in found.files:
            assert not set(entry.name) & set("/\\")
            assert not entry.name.startswith(".")


# -- what a server says


def soap(data: bytes) -> None:
    stub = SoapStubAdapter(host="vc.example.com", version="vim.version.version9")
    info = vim.SessionManager._GetMethodInfo("Login")
    with suppress(*FAILURES):
        SoapResponseDeserializer(stub).Deserialize(BytesIO(data), info.result)


def versions(data: bytes) -> None:
    with suppress(HyperExportError):
        _offered_versions(data, ENDPOINT)


def lease(data: bytes) -> None:
    """An address, a thumbprint, a certificate and a key, with line breaks between them."""
    address, thumbprint, certificate, key = (text(data).split("\n", 3) + [""] * 4)[:4]
    url = vim.HttpNfcLease.DeviceUrl(key=key, url=address, sslThumbprint=thumbprint, sslCertificate=certificate)
    for disk in (True, False):
        url.disk = disk
        with suppress(HyperExportError):
            (file,) = lease_files([url], ENDPOINT, ())
            assert not file.trust.insecure


def owner(data: bytes) -> None:
    words = text(data)
    found = Owner.from_description(words)
    assert found is None or Owner.from_description(found.to_description()) == found
    ProcessIdentity.parse(words)
    Owner.from_json(data)


def names(data: bytes) -> None:
    words = text(data)
    assert unescape(escape(words)) == words
    escape_controls(words).encode()
    assert len(one_line(words).splitlines()) <= 1
    assert len(mail_line(words)) <= 500


# -- what people write


def duration(data: bytes) -> None:
    with suppress(ValueError):
        found = parse_duration(text(data))
        assert found.total_seconds() >= 0
        assert abs((parse_duration(format_duration(found)) - found).total_seconds()) < 0.001


def window(data: bytes) -> None:
    for part in split_windows(text(data)):
        with suppress(ValueError):
            assert 0 <= parse_window(part).limit <= 100_000


def vsphere_url(data: bytes) -> None:
    words = text(data)
    with suppress(ValidationError):
        found = VSphereEndpoint.model_validate({"url": words, "username": "u", "password": "p"})
        assert found.url.startswith("https://")
        assert found.host
        assert 0 < found.port < 65536
        assert found.address
    variables: dict[str, Any] = dict(
        zip(("GOVC_URL", "GOVC_INSECURE", "GOVC_USERNAME"), words.split("\n"), strict=False)
    )
    with suppress(UsageError):
        VSphereEndpoint.from_environment({"GOVC_PASSWORD": "p", **variables})


def s3_url(data: bytes) -> None:
    with suppress(HyperExportError):
        place = S3Location.parse(text(data))
        key = place.key("db01.4f0e7a52", "export.json")
        assert not {"", ".", ".."} & set(key.split("/"))


def thumbprint(data: bytes) -> None:
    with suppress(ValueError):
        assert len(bytes.fromhex(normalise_thumbprint(text(data)))) in {20, 32}


def selection(data: bytes) -> None:
    words = text(data).split("\n")
    for field in ("vm", "tag", "folder", "match"):
        with suppress(ValueError, HyperExportError):
            Selection.model_validate({field: words})


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


@dataclass(frozen=True)
class Parser:
    """A target, with what it reads when all is well, for a fuzzer to begin with."""

    check: Target
    seeds: tuple[bytes, ...]


@cache
def parsers() -> dict[str, Parser]:
    """All targets by name."""
    disk = disk_bytes()
    mf = contents()["db01.mf"][1]
    mark = Owner.of_this_process(run="r", vcenter="vc", vm=VM.instance_uuid).to_description().encode()
    envelope = descriptor({"db01-disk-0.vmdk": 5}).encode()
    answer = (
        b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" '
        b'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><e:Body><LoginResponse xmlns="urn:vim25">'
        b"<returnval><key>52</key><userName>u</userName><fullName>u</fullName>"
        b"<loginTime>2026-11-25T00:00:00Z</loginTime><lastActiveTime>2026-11-25T00:00:00Z</lastActiveTime>"
        b"<locale>en</locale><messageLocale>en</messageLocale></returnval></LoginResponse></e:Body></e:Envelope>"
    )
    offered = b"<namespaces><namespace><name>urn:vim25</name><version>8.0.3.0</version></namespace></namespaces>"
    address = b"https://esx7/nfc/52-ticket/disk-0.vmdk\n" + b"AB:" * 19 + b"CD\n\n/vm-1/disk:0"
    return {
        "vmdk_stream": Parser(vmdk_stream, (b"\x05" + disk, struct.pack("<4sII", b"KDMV", 3, 0x30001))),
        "vmdk_image": Parser(vmdk_image, (disk,)),
        "ova": Parser(ova, (ova_bytes(),)),
        "ovf": Parser(ovf, (envelope, b"<!DOCTYPE x>" + envelope)),
        "checksums": Parser(checksums, (mf,)),
        "manifest": Parser(manifest, (an_export().to_json(),)),
        "soap": Parser(soap, (answer,)),
        "versions": Parser(versions, (offered,)),
        "lease": Parser(lease, (address,)),
        "owner": Parser(owner, (mark, b"boot/ns/12")),
        "names": Parser(names, (b"a%2fb\x1b[31m", "\u202eé".encode())),
        "duration": Parser(duration, (b"720h", b"1h30m", b"30d", b"P1DT2H", b"1.5h")),
        "window": Parser(window, (b"mon-fri 08:00-18:00=5", b"sat,sun 00:00-24:00=0,22:00-06:00=50")),
        "vsphere_url": Parser(vsphere_url, (b"https://u:p@[::1]:8443/sdk", b"vc.example.com\ntrue\nu")),
        "s3_url": Parser(s3_url, (b"s3://bucket/a/b",)),
        "thumbprint": Parser(thumbprint, (b"SHA256:" + b"AB:" * 31 + b"AB", b"ab" * 20)),
        "selection": Parser(selection, (b"db*", b"backup:daily", b"/DC0/vm/production")),
    }
