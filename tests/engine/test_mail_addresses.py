"""Mail to addresses in any script: a domain goes as ASCII to every server, a local part needs SMTPUTF8."""

import socket
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from hyperexport.errors import NotificationFailed
from hyperexport.notify import Mailbox, SmtpServer
from hyperexport.options.groups import EmailTls
from hyperexport.views.mail import Mail


class Inbox:
    def __init__(self) -> None:
        self.had: list[tuple[str, bool]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd
        self.had += [(address, envelope.smtp_utf8) for address in envelope.rcpt_tos]
        return "250 OK"


@pytest.mark.parametrize(
    ("offers", "address", "had"),
    [
        (True, "jürgen@bücher.de", [("jürgen@xn--bcher-kva.de", True)]),
        (True, "a@bücher.de", [("a@xn--bcher-kva.de", False)]),
        (False, "a@bücher.de", [("a@xn--bcher-kva.de", False)]),
        (False, "jürgen@bücher.de", []),
    ],
)
def test_an_address_in_any_script_arrives_or_is_named(offers, address, had):
    inbox = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(inbox, hostname="127.0.0.1", port=port, enable_SMTPUTF8=offers)
    server.start()
    try:
        box = Mailbox(SmtpServer("127.0.0.1", port, EmailTls.NONE), "a@x.org", [address])
        if had:
            box.send(Mail("s", "t", "<p>h</p>"))
        else:
            with pytest.raises(NotificationFailed, match=r"SMTPUTF8.*jürgen@"):
                box.send(Mail("s", "t", "<p>h</p>"))
    finally:
        server.stop()
    assert inbox.had == had
