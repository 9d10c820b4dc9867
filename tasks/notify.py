"""Telling people how a run goes. A mail that cannot be sent is a warning: it never fails an export, nor holds it up."""

import contextvars
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from hyperexport.errors import NotificationFailed
from hyperexport.tasks.channels import Channel
from hyperexport.tasks.step import step
from hyperexport.views.mail import Mail

logger = logging.getLogger("hyperexport.notify")

SECONDS_TO_SEND: Final = 30.0
"""How long all ways together may take. A connection to a mail server by prefect-email knows no timeout of its own."""

SECONDS_WHEN_STOPPED: Final = 5.0
"""The same in a run that was stopped: Prefect kills its process 30 s after the signal, and cleaning up came first."""


@step(name="notify", task_run_name="notify: {mail.subject}")
def notify(channels: Sequence[Channel], mail: Mail, *, seconds: float = SECONDS_TO_SEND) -> list[str]:
    """Send a mail by every channel at once.

    Args:
        channels: The ways.
        mail: What to say.
        seconds: How long to wait for all of them; one that takes longer is left behind.

    Returns:
        A warning for each channel that did not take it.
    """
    sendings = [_Sending(channel, mail) for channel in channels]
    end = time.monotonic() + seconds
    warnings = [warning for sending in sendings if (warning := sending.outcome(end - time.monotonic()))]
    for warning in warnings:
        logger.warning("%s", warning)
    return warnings


class _Sending:
    """One channel at work, in a thread that nobody has to wait for: a server may keep silent for ever."""

    def __init__(self, channel: Channel, mail: Mail) -> None:
        self._channel = channel
        self._warning: str | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._send, mail), name="notify", daemon=True)
        self._thread.start()

    def _send(self, mail: Mail) -> None:
        try:
            self._channel.send(mail)
        except Exception as error:  # noqa: BLE001 - whatever it is, the export is as good as it was
            known = isinstance(error, NotificationFailed)
            self._warning = str(error) if known else f"{self._channel.name} was not sent: {type(error).__name__}"
        else:
            logger.info("%s: sent", self._channel.name)

    def outcome(self, seconds: float) -> str | None:
        """Wait at most this long; the warning, or None for a mail that is sent."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            return f"{self._channel.name} was not sent in time; the server does not answer"
        return self._warning
