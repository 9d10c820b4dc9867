"""Telling people how a run goes: by a mail server, or by what ``tasks/notifiers.py`` opens, each within a time limit.

A mail that cannot be sent is a warning: it never fails an export, nor holds it up. What a server's library raises is
put into words here that hold no password.
"""

import contextvars
import logging
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from email.errors import MessageError
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pydantic import SecretStr

from hyperexport.base.secrets import EMAIL_PASSWORD_VARIABLE, email_password, is_email_password_given
from hyperexport.errors import HyperExportError, NotificationFailed, UsageError
from hyperexport.model.tls import refusal_words
from hyperexport.options.groups import Email, EmailTls
from hyperexport.options.precedence import ExportOptions, from_environment
from hyperexport.results import Level, SetupFinding
from hyperexport.steps.step import step

if TYPE_CHECKING:
    from hyperexport.views.mail import Mail

logger = logging.getLogger("hyperexport.notify")

SECONDS_TO_SEND: Final = 30.0
"""How long all ways together may take."""

SECONDS_WHEN_STOPPED: Final = 5.0
"""The same in a run that was stopped: Prefect kills its process 30 s after the signal, and cleaning up came first."""

SECONDS_FOR_MAIL: Final = 30.0
"""How long a check waits for a mail server."""

_FAILURES: Final = (OSError, smtplib.SMTPException, MessageError, ValueError)
"""What smtplib and the email package can raise; a UnicodeError is a ValueError."""

_HOW: Final = {EmailTls.SSL: "over TLS", EmailTls.STARTTLS: "with STARTTLS", EmailTls.NONE: "without TLS"}


class Notifier(Protocol):
    """One way to tell people. A plain class behind it: Prefect walks into models that are handed to a task."""

    name: str
    """As a warning calls it; without secrets."""

    def send(self, mail: "Mail") -> None:
        """Send it, however long that takes.

        Raises:
            NotificationFailed: It was not sent, or not to all.
        """
        ...

    def probe(self) -> str:
        """Go as far as one can without sending anything.

        Returns:
            How far that was, in words.

        Raises:
            NotificationFailed: Nothing could be sent this way.
        """
        ...


class SmtpServer(NamedTuple):
    """A mail server, and the login that it asks for."""

    host: str
    port: int
    tls: EmailTls
    username: str | None = None
    """None for no login."""
    password: SecretStr = SecretStr("")
    verify: bool = True
    """Whether its certificate has to be trusted."""

    @contextmanager
    def connected(self) -> Generator[smtplib.SMTP]:
        """Connect, negotiate TLS and log in; hang up when the block ends.

        Raises:
            OSError, smtplib.SMTPException, ValueError: It cannot be connected, or refuses the login.
            NotificationFailed: The login cannot be sent.
        """
        if self.username is not None and not (self.username + self.password.get_secret_value()).isascii():
            raise NotificationFailed(
                f"{self.host} was not asked: the user name or the password holds characters other than ASCII",
                fix="Give that account a password of ASCII characters",
            )
        context = None if self.tls is EmailTls.NONE else ssl.create_default_context()
        if context and not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        with (
            smtplib.SMTP_SSL(self.host, self.port, timeout=SECONDS_TO_SEND, context=context)
            if self.tls is EmailTls.SSL
            else smtplib.SMTP(self.host, self.port, timeout=SECONDS_TO_SEND)
        ) as server:
            if self.tls is EmailTls.STARTTLS:
                server.starttls(context=context)
            if self.username is not None:
                server.login(self.username, self.password.get_secret_value())
            yield server


class Mailbox:
    """A mail server, with a sender and the recipients."""

    def __init__(self, server: SmtpServer, sender: str, recipients: Sequence[str]) -> None:
        self._server: Final = server
        self._sender: Final = sender
        self._recipients: Final = tuple(recipients)
        self.name = f"mail to {', '.join(recipients)} by {server.host}"

    def probe(self) -> str:
        """Connect, negotiate TLS and log in, as for a mail; then hang up."""
        try:
            with self._server.connected() as server:
                server.noop()
        except _FAILURES as error:
            raise NotificationFailed(f"{self._server.host} does not accept mail: {_reason(error)}") from None
        login = "and the login is accepted" if self._server.username else "without a login"
        return f"it is connected {_HOW[self._server.tls]}, {login}; nothing was sent"

    def send(self, mail: "Mail") -> None:
        """Send it to all recipients at once."""
        from hyperexport.views.mail import to_message  # noqa: PLC0415 - templates are loaded only to be sent

        try:
            sender, *recipients = map(_with_ascii_domain, (self._sender, *self._recipients))
            foreign = [address for address in (sender, *recipients) if not address.isascii()]
            message = to_message(mail, sender=sender, recipients=recipients)
            with self._server.connected() as server:
                server.ehlo_or_helo_if_needed()
                if foreign and not server.has_extn("smtputf8"):
                    raise NotificationFailed(
                        f"{self.name} was not sent: the server offers no SMTPUTF8, which {', '.join(foreign)} needs"
                    )
                refused = server.send_message(message, sender, recipients)
        except _FAILURES as error:
            raise NotificationFailed(f"{self.name} was not sent: {_reason(error)}") from None
        if refused:
            raise NotificationFailed(f"{self.name} was refused for {', '.join(refused)}; the others have it")


def open_mailbox(
    email: Email, saved: Callable[[str], SmtpServer] | None = None, *, password_follows: bool = False
) -> Mailbox:
    """Make ready the mail server that the options name; nothing is connected yet.

    Args:
        email: The options.
        saved: Loads the server that ``--email-credentials`` names.
        password_follows: Do not ask for the password yet: another process, which sends, has it.

    Raises:
        UsageError: An option that is needed is missing; the message names it.
    """
    if not email.to:
        raise UsageError("--email-notify needs --email-to", fix="Name the recipients there or in HYPEREXPORT_EMAIL_TO")
    server = (
        saved(email.credentials)
        if saved and email.credentials
        else _server_of(email, password_follows=password_follows)
    )
    sender = email.sender or (server.username if "@" in (server.username or "") else None)
    if not sender:
        raise UsageError("--email-notify needs --email-from", fix="Name the sender there or in HYPEREXPORT_EMAIL_FROM")
    return Mailbox(server, sender, email.to)


def _server_of(email: Email, *, password_follows: bool) -> SmtpServer:
    if not email.smtp_host:
        raise UsageError(
            "--email-notify needs a mail server",
            fix="Name one with --email-smtp-host or HYPEREXPORT_SMTP_HOST, or a block with --email-credentials",
        )
    password = email_password()
    if email.username and not password and not password_follows:
        raise UsageError(
            "--email-username needs a password",
            fix=f"Set {EMAIL_PASSWORD_VARIABLE}, or save a block and name it with --email-credentials",
        )
    if email.username and not is_email_password_given():
        _check_password_is_for(email)
    return SmtpServer(email.smtp_host, email.port, email.tls, email.username, password or SecretStr(""))


def _check_password_is_for(email: Email) -> None:
    """Check that the environment's password goes to the environment's own mail server, and not less protected.

    A job, a schedule or a profile may name another server; its author must not get the password by that.

    Raises:
        UsageError: It would go elsewhere.
    """
    environment = from_environment()
    if "email_smtp_host" not in environment:
        return
    keys = ("email_smtp_host", "email_smtp_port", "email_tls")
    own = ExportOptions.from_keys({key: environment[key] for key in keys if key in environment}).email
    same_server = (email.smtp_host, email.port) == (own.smtp_host, own.port)
    if not same_server or (email.tls is EmailTls.NONE and own.tls is not EmailTls.NONE):
        raise UsageError(
            f"{EMAIL_PASSWORD_VARIABLE} is for {own.smtp_host} port {own.port} ({own.tls}), not for "
            f"{email.smtp_host} port {email.port} ({email.tls})",
            fix="Leave --email-smtp-host, -port and -tls out, or name a saved block with --email-credentials",
        )


def _reason(error: Exception) -> str:
    """Why a mail was not sent. What the server answered to a login is not repeated: it may repeat the password."""
    if isinstance(error, ValueError | MessageError) and not isinstance(error, OSError):  # its text may hold a password
        return f"the server's name, an address or the text cannot be sent ({type(error).__name__})"
    match error:
        case smtplib.SMTPAuthenticationError():
            why = f"the server refused the user name or the password ({error.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            why = "the server refused every recipient: " + _answer(next(iter(error.recipients.values())))
        case smtplib.SMTPSenderRefused() | smtplib.SMTPDataError():
            why = "the server answered " + _answer((error.smtp_code, error.smtp_error))
        case smtplib.SMTPNotSupportedError():
            why = "the server does not offer what was asked for: TLS, a login or such an address"
        case ssl.SSLCertVerificationError():
            why = f"the server's certificate is not trusted: {refusal_words(error)}"
        case ssl.SSLError():
            why = "the server does not speak TLS as asked for; look at --email-tls and the port"
        case smtplib.SMTPException():
            why = f"the server closed the connection ({type(error).__name__})"
        case socket.gaierror():
            why = "the server's name does not resolve"
        case _:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return why


def _with_ascii_domain(address: str) -> str:
    """The address as every server takes it, but for its local part: RFC 5890 has ASCII for any domain."""
    user, _, domain = address.rpartition("@")
    return f"{user}@{domain if domain.isascii() else domain.encode('idna').decode()}"


def _answer(reply: tuple[int, bytes | str]) -> str:
    code, text = reply
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(words.split())[:200]}"


@step("notify", run_name="notify: {mail.subject}")
def notify(notifiers: Sequence[Notifier], mail: "Mail", *, seconds: float = SECONDS_TO_SEND) -> list[str]:
    """Send a mail by every notifier at once.

    Args:
        notifiers: The ways.
        mail: What to say.
        seconds: How long to wait for all of them; one that takes longer is left behind.

    Returns:
        A warning for each notifier that did not take it.
    """
    sendings = [_Sending(notifier, mail) for notifier in notifiers]
    end = time.monotonic() + seconds
    warnings = [warning for sending in sendings if (warning := sending.outcome(end - time.monotonic()))]
    for warning in warnings:
        logger.warning("%s", warning)
    return warnings


class _Sending:
    """One notifier at work, in a thread of its own: a server that never answers must not delay the run."""

    def __init__(self, notifier: Notifier, mail: "Mail") -> None:
        self._notifier = notifier
        self._warning: str | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._send, mail), name="notify", daemon=True)
        self._thread.start()

    def _send(self, mail: "Mail") -> None:
        try:
            self._notifier.send(mail)
        except Exception as error:  # noqa: BLE001 - whatever it is, the export is as good as it was
            known = isinstance(error, NotificationFailed)
            self._warning = str(error) if known else f"{self._notifier.name} was not sent: {type(error).__name__}"
        else:
            logger.info("%s: sent", self._notifier.name)

    def outcome(self, seconds: float) -> str | None:
        """Wait at most this long; the warning, or None for a mail that is sent."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            return f"{self._notifier.name} was not sent in time; the server does not answer"
        return self._warning


@step("check-mail")
def check_mail(notifiers: Callable[[], Sequence[Notifier]]) -> list[SetupFinding]:
    """Connect and log in as for a mail, and send none.

    Args:
        notifiers: Opens the ways that the options name.
    """
    try:
        probes = [_Probe(notifier) for notifier in notifiers()]
    except HyperExportError as error:
        return [SetupFinding(what="mail", level=Level.FAIL, words=error.what, fix=error.fix)]
    return [probe.finding(SECONDS_FOR_MAIL) for probe in probes]


class _Probe:
    """One notifier that is tried in a thread of its own: a server that never answers must not delay the check."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._level, self._words = Level.FAIL, "the server does not answer"
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._try), name="check-mail", daemon=True)
        self._thread.start()

    def _try(self) -> None:
        try:
            words = self._notifier.probe()
        except NotificationFailed as error:
            self._words = error.what
        except Exception as error:  # noqa: BLE001 - an export would go on without the mail
            self._words = f"it cannot be used: {type(error).__name__}"
        else:
            self._level, self._words = Level.OK, words

    def finding(self, seconds: float) -> SetupFinding:
        self._thread.join(seconds)
        fix = None if self._level is Level.OK else "Check the --email options; hyperexport send-test-email sends one"
        return SetupFinding(what=self._notifier.name, level=self._level, words=self._words, fix=fix)
