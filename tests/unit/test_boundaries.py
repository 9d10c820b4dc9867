"""Whatever a foreign library can raise comes out as an error of ours that names what failed."""

import errno
import http.client
import io
import re
import shutil
import smtplib
import socket
import ssl
import string
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.parsers.expat import ExpatError

import boto3.exceptions
import botocore.exceptions
import botocore.parsers
import pytest
import urllib3.exceptions
from pydantic import SecretStr
from urllib3.connection import HTTPSConnection

from hyperexport.base.stop import StopSignal
from hyperexport.cli.failures import find_cause
from hyperexport.convert.qemu_img import write_with_qemu_img
from hyperexport.convert.values import Target
from hyperexport.deployments import local_server
from hyperexport.deployments.orchestrator import find_configured, prefect_has_profile
from hyperexport.errors import HyperExportError, ManifestInvalid, NotificationFailed, UsageError
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.ownership import Owner
from hyperexport.model.tls import Trust
from hyperexport.nbd.server import NbdServer
from hyperexport.notify import Mailbox, SmtpServer
from hyperexport.options.groups import EmailTls
from hyperexport.options.lists import read_names
from hyperexport.profiles import load_profile
from hyperexport.steps import wall_clock
from hyperexport.store.filesystem import translated as translated_file
from hyperexport.store.s3_errors import translated
from hyperexport.store.s3_upload import noted
from hyperexport.transfer import source
from hyperexport.transfer.source import Source, open_source
from hyperexport.views.mail import Mail, to_message
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import FAILURES, translate
from hyperexport.vsphere.tags import tagged_vms


def subclasses(root: type[Any]) -> Iterator[type[Any]]:
    """Every class of a library's family: one that a new version adds is walked, too."""
    yield root
    for kind in root.__subclasses__():
        if kind.__module__.partition(".")[0] == root.__module__.partition(".")[0]:
            yield from subclasses(kind)


SPECIAL: dict[type[Any], Any] = {
    smtplib.SMTPRecipientsRefused: smtplib.SMTPRecipientsRefused({"b@x.org": (550, b"x")}),
    http.client.IncompleteRead: http.client.IncompleteRead(b"x"),
}


def made(kind: type[Any]) -> Any:
    """An exception of this class, with whatever it wants to be told."""
    if kind in SPECIAL:
        return SPECIAL[kind]
    wants = {name: "x" for _, name, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if name}
    several = ((), ("x",), (5, b"x"), ({},), (5, b"x", "y"), (None, "x"), (None, "x", "y"), ("x", 5, 6, 7))
    for arguments, keywords in (((), wants), *((some, {}) for some in several)):
        try:
            return kind(*arguments, **keywords)
        except (TypeError, ValueError, AttributeError):
            continue
    bare: Any = kind.__new__
    return bare(kind)


OPERATING_SYSTEM = [OSError(code, name) for code, name in errno.errorcode.items()] + [
    ssl.SSLError("x"), ssl.SSLZeroReturnError("x"), ssl.SSLWantReadError("x"), ssl.SSLEOFError("x"),
    socket.gaierror(-2, "x"), socket.herror(1, "x"), TimeoutError(),
]  # fmt: skip
URLLIB3 = [made(kind) for kind in subclasses(urllib3.exceptions.HTTPError)]
HTTP = [made(kind) for kind in subclasses(http.client.HTTPException) if kind.__module__ == "http.client"]
UNICODE = [UnicodeEncodeError("idna", "x", 0, 1, "x"), UnicodeError("label too long")]


def not_ours(errors: Iterable[BaseException], attempt: Callable[[BaseException], object], says: str) -> list[str]:
    """The errors that come out raw, or not at all, or as one of ours that does not say what it is about."""
    found: list[str] = []
    for error in errors:
        try:
            attempt(error)
        except HyperExportError as ours:
            found += [] if re.search(says, str(ours)) else [f"{kinds(error)} became {ours}"]
        except Exception as raw:  # noqa: BLE001 - what is looked for
            found.append(f"{kinds(error)} came out as {kinds(raw)}")
        else:
            found.append(f"{kinds(error)} was lost")
    return found


def kinds(error: BaseException) -> str:
    return f"{type(error).__name__} {getattr(error, 'errno', '')}"


@pytest.mark.parametrize(
    "error",
    [
        *map(made, subclasses(botocore.exceptions.BotoCoreError)),
        botocore.exceptions.ClientError({"Error": {"Code": "X"}}, "PutObject"),
        *map(made, subclasses(boto3.exceptions.Boto3Error)),
        *map(made, subclasses(botocore.parsers.ResponseParserError)),
        *(*URLLIB3, *OPERATING_SYSTEM, *HTTP, *UNICODE),
    ],
    ids=kinds,
)
def test_s3(error):
    with pytest.raises(HyperExportError, match="writing s3://bucket/key"), translated("writing s3://bucket/key"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        *(*OPERATING_SYSTEM, *HTTP, *UNICODE),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
        *(ExpatError("x"), zlib.error("x"), EOFError(), ValueError("x"), KeyError("x"), RecursionError()),
    ],
    ids=kinds,
)
def test_vsphere(error):
    assert isinstance(error, FAILURES)
    endpoint = VSphereEndpoint(url="vc.example.com", username="u", password=SecretStr("p"))
    ours = translate(error, doing="listing the VMs", endpoint=endpoint)
    assert isinstance(ours, HyperExportError)
    assert "listing the VMs" in str(ours)
    assert "vc.example.com" in str(ours)


@pytest.mark.parametrize("error", OPERATING_SYSTEM, ids=kinds)
def test_files(error):
    with pytest.raises(HyperExportError, match="write /store/x"), translated_file("write", Path("/store/x")):
        raise error


@pytest.mark.parametrize(
    "error", [*map(made, subclasses(smtplib.SMTPException)), *OPERATING_SYSTEM, *UNICODE, ValueError("x")], ids=kinds
)
def test_mail(monkeypatch, error):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(smtplib, "SMTP", fails)
    box = Mailbox(SmtpServer("mail.example.com", 25, EmailTls.NONE), "a@x.org", ["b@x.org"])
    for call in (box.probe, lambda: box.send(Mail("s", "t", "<p>h</p>"))):
        with pytest.raises(NotificationFailed, match=r"mail\.example\.com"):
            call()


def test_a_password_that_cannot_be_sent_is_told_without_it():
    server = SmtpServer("mail.example.com", 25, EmailTls.NONE, "u", SecretStr("gehöim"))
    with pytest.raises(NotificationFailed, match="ASCII") as refused:
        Mailbox(server, "a@x.org", ["b@x.org"]).probe()
    assert "geh" not in str(refused.value)


def test_an_address_in_any_script_makes_a_mail():
    message = to_message(Mail("s", "t", "<p>h</p>"), sender="a@x.org", recipients=["用户@例子.中国"])
    assert "用户@例子.中国".encode() in message.as_bytes()


# -- the bytes of a disk

WIRE = [*URLLIB3, *OPERATING_SYSTEM, *HTTP, *UNICODE, ValueError("x")]


class Broken:
    """Stands for an object of a library, every call of which fails in the same way."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fails(*_: object, **__: object) -> None:
            raise self._error

        return fails


def test_reading_a_disk():
    ours, theirs = socket.socketpair()

    def read(error: BaseException) -> None:
        response = cast("Any", Broken(error))
        Source("disk-0", response, ours, length=None, largest=None, stop=StopSignal()).readinto(
            memoryview(bytearray(9))
        )

    with ours, theirs:
        assert not_ours([*WIRE, AttributeError("x")], read, "disk-0") == []


@pytest.mark.parametrize("where", ["connect", "putrequest", "putheader", "endheaders"])
def test_asking_for_a_disk(monkeypatch, where):
    class Unconnected(HTTPSConnection):
        def connect(self) -> None:
            self.sock = tls.wrap_socket(socket.socket(), server_hostname="esx1.example.com")

    def ask(error: BaseException) -> None:
        monkeypatch.setattr(Unconnected, where, getattr(Broken(error), where))
        with open_source(
            "https://esx1.example.com/nfc/ticket/disk-0", trust=trust, stop=StopSignal(), headers={"Cookie": "x"}
        ):
            pytest.fail("there was nothing to read")

    tls, trust = ssl.create_default_context(), Trust()
    monkeypatch.setattr(source, "HTTPSConnection", Unconnected)
    monkeypatch.setattr(Trust, "ssl_context", lambda _: tls)
    assert not_ours(WIRE, ask, "disk-0") == []


@pytest.mark.parametrize(
    "url",
    [
        f"https://{'a' * 64}.example.com/x",
        "https://a..b/x",
        "https://[::1/x",
        "https://h:99999/x",
        "https://*\x00/x",
        "",
        "x" * 10_000,
    ],
    ids=range(7),
)
def test_an_address_of_a_disk_that_is_none(url):
    with pytest.raises(HyperExportError), open_source(url, trust=Trust(), stop=StopSignal()):
        pytest.fail("there was nothing to read")


# -- tags


@pytest.mark.parametrize("password", ["p", "pässwört", "密码"])
def test_tags(monkeypatch, password):
    def ask(error: BaseException) -> None:
        monkeypatch.setattr(urllib3.PoolManager, "request", Broken(error).request)
        tagged_vms(cast("Any", session), ["a:b"])

    tls = ssl.create_default_context()
    monkeypatch.setattr(Trust, "ssl_context", lambda _: tls)
    endpoint = VSphereEndpoint(url="vc.example.com", username="ü", password=SecretStr(password))
    session = SimpleNamespace(is_vcenter=True, endpoint=endpoint, address="vc.example.com")
    assert not_ours([*WIRE, RecursionError()], ask, r"reading the tags.*vc\.example\.com") == []


# -- what was saved by others, or by us long ago

DOCUMENTS = [
    *(b"", b"\xff\xfe", b"null", b"true", b"7", b'"x"', b"[]", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"NaN"),
    *(b'{"a": 1e999}', b"[" + b"9" * 5000 + b"]", b'{"key": {}, "upload_id": []}', b'"\\ud800"', b'{"a": "\x00"}'),
    *(b'{"a": 1}{', b"\x00" * 100),
]


@pytest.mark.parametrize("data", DOCUMENTS, ids=lambda data: repr(data[:20]))
def test_saved_documents(data, monkeypatch, tmp_path):
    assert Owner.from_json(data) is None
    assert noted(data, "prefix/") is None
    with pytest.raises(ManifestInvalid):
        ExportManifest.from_json(data, source="export.json")
    read_names(data.decode("utf-8", "surrogateescape"))
    for variable, name in (("XDG_CONFIG_HOME", "profiles/nightly.json"), ("XDG_STATE_HOME", "clock.json")):
        monkeypatch.setenv(variable, str(tmp_path))
        (tmp_path / "hyperexport" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hyperexport" / name).write_bytes(data)
    with pytest.raises(UsageError, match="nightly"):
        load_profile("nightly")
    assert wall_clock._read() is None
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("hyperexport-serve.json", "profiles.toml", "prefect.db", "prefect.toml", "pyproject.toml", ".env"):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    configured = find_configured()
    assert configured is None or "prefect" in sys.modules  # the server of other tests, in this worker
    assert configured is not None or not prefect_has_profile("nightly")


# -- other programs, and sockets of our own

NO_START = [*OPERATING_SYSTEM, subprocess.SubprocessError("x"), ValueError("embedded null byte")]


def test_programs(monkeypatch, tmp_path):
    def convert(error: BaseException) -> None:
        monkeypatch.setattr(subprocess, "Popen", Broken(error).Popen)
        write_with_qemu_img(cast("Any", None), tmp_path / "x.qcow2", Target.QCOW2, stop=StopSignal())

    def serve(error: BaseException) -> None:
        monkeypatch.setattr(subprocess, "Popen", Broken(error).Popen)
        local_server.launch(0, {}, io.BytesIO(), whole=False)

    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/qemu-img")
    assert not_ours(NO_START, convert, "qemu-img") == []
    assert not_ours(NO_START, serve, "Prefect server") == []


def test_temporary_files(monkeypatch, tmp_path):
    def convert(error: BaseException) -> None:
        monkeypatch.setattr(tempfile, "mkdtemp", Broken(error).mkdtemp)
        write_with_qemu_img(cast("Any", None), tmp_path / "x.qcow2", Target.QCOW2, stop=StopSignal())

    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/qemu-img")
    assert not_ours(OPERATING_SYSTEM, convert, "temporary folder") == []


@pytest.mark.parametrize("where", [{"socket_path": Path("s")}, {"host": "127.0.0.1"}], ids=["unix", "tcp"])
def test_listening_over_nbd(monkeypatch, where):
    def listen(error: BaseException) -> None:
        monkeypatch.setattr(socket.socket, "bind", Broken(error).bind)
        NbdServer({"disk": cast("Any", None)}, **where)

    errors = [*OPERATING_SYSTEM, *UNICODE, OverflowError("port must be 0-65535"), ValueError("embedded null byte")]
    assert not_ours(errors, listen, "cannot listen on") == []


# -- Prefect


def prefects() -> Iterator[BaseException]:
    import httpx
    import prefect.exceptions

    families = (prefect.exceptions.PrefectException, httpx.HTTPError, httpx.StreamError)
    yield from (made(kind) for family in families for kind in subclasses(family))
    yield from (httpx.InvalidURL("x"), httpx.CookieConflict("x"))
    request = httpx.Request("GET", "http://prefect.example.com/api/x")
    for status in (400, 401, 403, 404, 409, 422, 429, 500, 502, 503):
        response = httpx.Response(status, request=request)
        yield prefect.exceptions.PrefectHTTPStatusError("x", request=request, response=response)


def test_prefect():
    def call(error: BaseException) -> None:
        raise find_cause(error) or error

    assert not_ours(prefects(), call, "Prefect") == []
