"""Whatever a foreign library can raise comes out as an error of ours that names what failed."""

import errno
import http.client
import smtplib
import socket
import ssl
import string
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import boto3.exceptions
import botocore.exceptions
import botocore.parsers
import pytest
import urllib3.exceptions
from pydantic import SecretStr

from hyperexport.errors import HyperExportError, NotificationFailed
from hyperexport.notify import Mailbox, SmtpServer
from hyperexport.options.groups import EmailTls
from hyperexport.store.filesystem import translated as translated_file
from hyperexport.store.s3_errors import translated
from hyperexport.views.mail import Mail, to_message
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import FAILURES, translate


def subclasses(root: type[Any]) -> Iterator[type[Any]]:
    yield root
    for kind in root.__subclasses__():
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
    for arguments, keywords in (((), wants), (("x",), {}), ((5, b"x"), {}), (({},), {}), ((5, b"x", "y"), {})):
        try:
            return kind(*arguments, **keywords)
        except (TypeError, ValueError, AttributeError):
            continue
    return kind.__new__(kind)


OPERATING_SYSTEM = [OSError(code, name) for code, name in errno.errorcode.items()] + [
    ssl.SSLError("x"), ssl.SSLZeroReturnError("x"), ssl.SSLWantReadError("x"), ssl.SSLEOFError("x"),
    socket.gaierror(-2, "x"), socket.herror(1, "x"), TimeoutError(),
]  # fmt: skip
HTTP = [made(kind) for kind in subclasses(http.client.HTTPException) if kind.__module__ == "http.client"]
UNICODE = [UnicodeEncodeError("idna", "x", 0, 1, "x"), UnicodeError("label too long")]


def kinds(error: BaseException) -> str:
    return f"{type(error).__name__} {getattr(error, 'errno', '')}"


@pytest.mark.parametrize(
    "error",
    [
        *map(made, subclasses(botocore.exceptions.BotoCoreError)),
        botocore.exceptions.ClientError({"Error": {"Code": "X"}}, "PutObject"),
        *map(made, subclasses(boto3.exceptions.Boto3Error)),
        *map(made, subclasses(botocore.parsers.ResponseParserError)),
        *(urllib3.exceptions.HTTPError("x"), urllib3.exceptions.ProtocolError("x")),
        *(*OPERATING_SYSTEM, *HTTP, *UNICODE),
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
