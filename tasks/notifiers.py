"""Telling people by what Prefect stores: a mail server's block, notification blocks such as Slack's or Teams'.

What they raise is put into words here that hold no password and no address of a webhook, which is one.
"""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block

from hyperexport.blocks.loading import load_block
from hyperexport.errors import NotificationFailed, UsageError
from hyperexport.notify import Notifier, SmtpServer, open_mailbox
from hyperexport.options.groups import Email, EmailTls

if TYPE_CHECKING:
    from hyperexport.views.mail import Mail

_SAVE_ONE: Final = "Save one in the Prefect UI under Blocks"
_TELL_THEIR_ADDRESS: Final = ("apprise", "httpx")


def open_notifiers(email: Email, *, mails: bool | None = None, password_follows: bool = False) -> tuple[Notifier, ...]:
    """Make ready every way that the options name; nothing is connected yet.

    Args:
        email: The options.
        mails: Whether mails are sent; as ``--email-notify`` says if None.
        password_follows: Do not ask for the mail server's password yet: the process that sends has it.

    Raises:
        UsageError: An option that is needed is missing, or a block is not there; the message names it.
    """
    by_mail = email.notify if mails is None else mails
    webhooks: list[Notifier] = [Webhook(name, _load_webhook(name)) for name in email.webhooks]
    mailbox = [open_mailbox(email, _saved_server, password_follows=password_follows)] if by_mail else []
    return (*mailbox, *webhooks)


def _saved_server(name: str) -> SmtpServer:
    """The mail server of a saved block."""
    from prefect_email import EmailServerCredentials  # noqa: PLC0415 - only where such a block is named
    from prefect_email.credentials import SMTPServer, SMTPType  # noqa: PLC0415

    what = f"Email Server Credentials block {name}"
    missing = UsageError(f"--email-credentials: there is no {what} in Prefect", fix=_SAVE_ONE)
    block = load_block(EmailServerCredentials, name, what=f"--email-credentials: {what}", missing=missing)
    host, kind = block.smtp_server, block.smtp_type
    kind = SMTPType[kind.upper()] if isinstance(kind, str) else kind
    ways = {SMTPType.SSL: EmailTls.SSL, SMTPType.STARTTLS: EmailTls.STARTTLS, SMTPType.INSECURE: EmailTls.NONE}
    return SmtpServer(
        host=host.value if isinstance(host, SMTPServer) else host,
        port=block.smtp_port or kind.value,
        tls=ways[kind],
        username=block.username,
        password=block.password,
        verify=block.verify is not False,
    )


class Webhook:
    """One of Prefect's notification blocks: Slack, Teams, or any other that can ``notify``."""

    def __init__(self, name: str, block: NotificationBlock) -> None:
        self._block: Final = block
        self.name = f"notification by {name}"

    def probe(self) -> str:
        """Nothing: a chat's webhook can be tried only by a message."""
        return "the block exists; only a message proves it: hyperexport send-test-email"

    def send(self, mail: "Mail") -> None:
        """Send the text of the mail to the notification block."""
        try:
            with _unlogged(), self._block.raise_on_failure():
                self._block.notify(mail.text, mail.subject)  # pyright: ignore[reportUnusedCoroutine] - not without a loop
        except NotificationError:
            raise NotificationFailed(f"{self.name} was not sent: the service did not accept it") from None
        except Exception as error:  # noqa: BLE001 - every block has its own; their texts hold the webhook's address
            status = getattr(getattr(error, "response", None), "status_code", None)
            why = f"it was answered with {status}" if status else type(error).__name__
            raise NotificationFailed(f"{self.name} was not sent: {why}") from None


def _load_webhook(name: str) -> NotificationBlock:
    import prefect.blocks.notifications  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] - registers them

    missing = UsageError(f"--notify-webhook: there is no block {name} in Prefect", fix=_SAVE_ONE)
    block = load_block(Block, name, what=f"--notify-webhook: block {name}", missing=missing)
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
