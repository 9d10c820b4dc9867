"""The ways by which people are told: a mail server, a chat. Each is opened from the options and can send one mail.

The connections are those of Prefect's own blocks: prefect-email's credentials, Prefect's notification blocks. What
they raise is put into words here that hold no password and no address of a webhook, which is one.
"""

import logging
import smtplib
import socket
import ssl
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, cast

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect_email import EmailServerCredentials
from prefect_email.credentials import SMTPServer, SMTPType
from pydantic import SecretStr

from hyperexport.base.secrets import EMAIL_PASSWORD_VARIABLE, email_password
from hyperexport.errors import NotificationFailed, UsageError
from hyperexport.options.groups import Email, EmailTls
from hyperexport.views.mail import Mail, to_message

_TYPES: Final = {
    EmailTls.STARTTLS: SMTPType.STARTTLS,
    EmailTls.SSL: SMTPType.SSL,
    EmailTls.NONE: SMTPType.INSECURE,
}
_TELL_THEIR_ADDRESS: Final = ("apprise", "httpx")


class Channel(Protocol):
    """One way to tell people. A plain class behind it: Prefect walks into models that are handed to a task."""

    name: str
    """As a warning calls it; without secrets."""

    def send(self, mail: Mail) -> None:
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


def open_channels(email: Email, *, mails: bool | None = None) -> tuple[Channel, ...]:
    """Make ready every way that the options name; nothing is connected yet.

    Args:
        email: The options.
        mails: Whether mails are sent; as ``--email-notify`` says if None.

    Raises:
        UsageError: An option that is needed is missing, or a block is not there; the message names it.
    """
    by_mail = email.notify if mails is None else mails
    webhooks: list[Channel] = [Webhook(name, _load_webhook(name)) for name in email.webhooks]
    return (*([_open_mailbox(email)] if by_mail else []), *webhooks)


class Mailbox:
    """A mail server, with a sender and the recipients."""

    def __init__(self, credentials: EmailServerCredentials, sender: str, recipients: Sequence[str]) -> None:
        server = credentials.smtp_server
        self._host: Final = server.value if isinstance(server, SMTPServer) else server
        self._credentials: Final = credentials
        self._sender: Final = sender
        self._recipients: Final = tuple(recipients)
        self.name = f"mail to {', '.join(recipients)} by {self._host}"

    def probe(self) -> str:
        """Connect, negotiate TLS and log in, as for a mail; then hang up."""
        try:
            with self._credentials.get_server() as server:
                server.noop()
        except (OSError, smtplib.SMTPException) as error:
            raise NotificationFailed(f"{self._host} takes no mail: {_mail_words(error)}") from None
        secured = {SMTPType.SSL: "over TLS", SMTPType.STARTTLS: "with STARTTLS"}
        kind = _smtp_type(self._credentials)
        how = secured.get(kind, "without TLS")
        login = "and the login is taken" if self._credentials.username else "and no login is used"
        return f"it is connected {how}, {login}; nothing was sent"

    def send(self, mail: Mail) -> None:
        """Send it to all recipients at once."""
        message = to_message(mail, sender=self._sender, recipients=self._recipients)
        try:
            with self._credentials.get_server() as server:
                refused = server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise NotificationFailed(f"{self.name} was not sent: {_mail_words(error)}") from None
        if refused:
            raise NotificationFailed(f"{self.name} was refused for {', '.join(refused)}; the others have it")


def _smtp_type(credentials: EmailServerCredentials) -> SMTPType:
    kind = credentials.smtp_type
    return SMTPType[kind.upper()] if isinstance(kind, str) else kind


def _open_mailbox(email: Email) -> Mailbox:
    if not email.to:
        raise UsageError("--email-notify needs --email-to", fix="Name the recipients there or in HYPEREXPORT_EMAIL_TO")
    credentials = _load_credentials(email.credentials) if email.credentials else _credentials(email)
    sender = email.sender or (credentials.username if "@" in (credentials.username or "") else None)
    if not sender:
        raise UsageError("--email-notify needs --email-from", fix="Name the sender there or in HYPEREXPORT_EMAIL_FROM")
    return Mailbox(credentials, sender, email.to)


def _credentials(email: Email) -> EmailServerCredentials:
    """The block that the options describe; it is never saved."""
    if not email.smtp_host:
        raise UsageError(
            "--email-notify needs a mail server",
            fix="Name one with --email-smtp-host or HYPEREXPORT_SMTP_HOST, or a block with --email-credentials",
        )
    password = email_password()
    if email.username and not password:
        raise UsageError(
            "--email-username needs a password",
            fix=f"Set {EMAIL_PASSWORD_VARIABLE}, or save a block and name it with --email-credentials",
        )
    return EmailServerCredentials(
        username=email.username,
        password=password if email.username and password else SecretStr(""),
        smtp_server=email.smtp_host,
        smtp_type=_TYPES[email.tls],
        smtp_port=email.port,
    )


def _load_credentials(name: str) -> EmailServerCredentials:
    try:
        return cast("EmailServerCredentials", EmailServerCredentials.load(name))
    except ValueError as error:
        raise UsageError(
            f"--email-credentials: there is no Email Server Credentials block {name} in Prefect",
            fix="Save one in the Prefect UI under Blocks",
        ) from error


def _mail_words(error: OSError | smtplib.SMTPException) -> str:
    """Why a mail was not sent. What the server answered to a login is not repeated: it may repeat the password."""
    match error:
        case smtplib.SMTPAuthenticationError():
            why = f"the server refused the user name or the password ({error.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            why = "the server refused every recipient: " + _answer(next(iter(error.recipients.values())))
        case smtplib.SMTPSenderRefused() | smtplib.SMTPDataError():
            why = "the server answered " + _answer((error.smtp_code, error.smtp_error))
        case smtplib.SMTPNotSupportedError():
            why = "the server does not offer what was asked for: TLS, a login or such an address"
        case smtplib.SMTPException():
            why = f"the server broke off ({type(error).__name__})"
        case ssl.SSLCertVerificationError():
            why = f"the server's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            why = "the server does not speak TLS as asked for; look at --email-tls and the port"
        case socket.gaierror():
            why = "the server's name does not resolve"
        case _:
            why = error.strerror or str(error) or type(error).__name__
    return why


def _answer(reply: tuple[int, bytes | str]) -> str:
    code, text = reply
    words = text.decode(errors="replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(words.split())[:200]}"


class Webhook:
    """One of Prefect's notification blocks: Slack, Teams, or any other that can ``notify``."""

    def __init__(self, name: str, block: NotificationBlock) -> None:
        self._block: Final = block
        self.name = f"notification by {name}"

    def probe(self) -> str:
        """Nothing: a chat's webhook can be tried only by a message."""
        return "the block is there; only a message proves it: hyperexport send-test-email"

    def send(self, mail: Mail) -> None:
        """Send the mail's text."""
        try:
            with _unlogged(), self._block.raise_on_failure():
                self._block.notify(mail.text, mail.subject)  # pyright: ignore[reportUnusedCoroutine] - not without a loop
        except NotificationError:
            raise NotificationFailed(f"{self.name} was not sent: the service did not take it") from None
        except Exception as error:  # noqa: BLE001 - every block has its own; their texts hold the webhook's address
            status = getattr(getattr(error, "response", None), "status_code", None)
            why = f"it was answered with {status}" if status else type(error).__name__
            raise NotificationFailed(f"{self.name} was not sent: {why}") from None


def _load_webhook(name: str) -> NotificationBlock:
    import prefect.blocks.notifications  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] - registers them

    try:
        block = Block.load(name)
    except ValueError as error:
        raise UsageError(
            f"--notify-webhook: there is no block {name} in Prefect", fix="Save one in the Prefect UI under Blocks"
        ) from error
    if not isinstance(block, NotificationBlock):
        raise UsageError(
            f"--notify-webhook: {name} is no notification block", fix="Name one such as slack-webhook/NAME"
        )
    return block


@contextmanager
def _unlogged() -> Generator[None]:
    """While this thread sends, keep what apprise and httpx log to ourselves: a webhook's address is its password."""
    sender = threading.get_ident()

    def others_only(record: logging.LogRecord) -> bool:
        return record.thread != sender

    loggers = [logging.getLogger(name) for name in _TELL_THEIR_ADDRESS]
    for logger in loggers:
        logger.addFilter(others_only)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others_only)
