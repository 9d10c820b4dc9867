"""A real mail server on loopback, with TLS and logins, that keeps what it gets; and ones that misbehave."""

# ruff: noqa: ARG002, N802 - aiosmtpd names its handlers, and what they are called with

import socket
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from hyperexport.simulator.certificates import make_authority, make_server


class Postbox:
    """What arrived, and for whom; recipients at ``nobody.example`` are refused."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.encrypted: list[bool] = []
        self.users: list[str | None] = []
        self.on_arrival: Callable[[], object] = lambda: None
        self.port = 0
        self.ca_file = Path()

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:
        if address.endswith("@nobody.example"):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.on_arrival()
        parsed = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.messages.append(parsed)
        self.recipients.append(list(envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None)
        self.users.append(session.auth_data.decode() if session.auth_data else None)
        return "250 OK"

    # Methods: aiosmtpd looks at every attribute of its handler.
    def only(self) -> EmailMessage:
        (message,) = self.messages
        return message

    def subjects(self) -> list[str]:
        return [str(message["Subject"]) for message in self.messages]


def text_of(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    assert part is not None
    return part.get_content().replace("\r\n", "\n")


def html_of(message: EmailMessage) -> str:
    part = message.get_body(("html",))
    assert part is not None
    return part.get_content()


@contextmanager
def smtp_server(
    home: Path, *, tls: str = "none", login: tuple[str, str] | None = None, address: str = "127.0.0.1"
) -> Generator[Postbox]:
    """Serve on loopback until the block ends.

    Args:
        home: Where the certificate of its authority is kept, as ``ca_file``.
        tls: ``starttls`` (and nothing without it), ``ssl`` or ``none``.
        login: The user and password without which it takes nothing.
        address: Where it listens; its certificate is for 127.0.0.1 and localhost.
    """
    postbox = Postbox()
    authority = make_authority()
    postbox.ca_file = home / "mail-ca.pem"
    postbox.ca_file.write_bytes(authority.pem)
    context = make_server("localhost", authority=authority, name="mail").server_context(home, "mail")

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        good = login is not None and (given.login.decode(), given.password.decode()) == login
        return AuthResult(success=good, handled=False, auth_data=given.login)

    keywords: dict[str, Any] = {
        "server_hostname": "localhost",
        "authenticator": authenticate,
        "auth_required": login is not None,
        "auth_require_tls": False,
    }
    if tls == "starttls":
        keywords |= {"tls_context": context, "require_starttls": True}
    context_at_once = context if tls == "ssl" else None
    controller = _OnAnyPort(postbox, hostname=address, ssl_context=context_at_once, **keywords)
    controller.start()
    postbox.port = controller.port
    try:
        yield postbox
    finally:
        controller.stop()


class _OnAnyPort(Controller):
    """Listens on a port that is free, without a moment in which another could take it."""

    def _create_server(self) -> Any:
        listener = socket.create_server((self.hostname, 0))
        self.port = listener.getsockname()[1]
        return self.loop.create_server(self._factory_invoker, sock=listener, ssl=self.ssl_context)


@contextmanager
def silent_server() -> Generator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def trust(monkeypatch: Any, postbox: Postbox) -> None:
    """Have this process trust the server's authority, as an administrator would have it trust his own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(postbox.ca_file))
    assert ssl.create_default_context().get_ca_certs()
