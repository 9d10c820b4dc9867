"""Mails reach real mail servers in every way that there is, messages reach a webhook, and what fails says why."""

import http.server
import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect_email import EmailServerCredentials

from hyperexport.errors import NotificationFailed, UsageError
from hyperexport.notify import Notifier, notify
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.tasks.notifiers import open_notifiers
from hyperexport.views.mail import Mail
from tests.flows.smtp_server import closed_port, html_of, silent_server, smtp_server, text_of, trust

MAIL = Mail("HyperExport: hello", "Good day", "<p>Good day</p>")
TO = "admin@example.com,backup@example.com,ops@example.com"
PASSWORD = "Mailb0x-s3cret-passw0rd"
TOKEN = "Ch4nnel-s3cret-token"


def channels(**keys: object) -> tuple[Notifier, ...]:
    values = {"email_notify": True, "email_from": "export@example.com", "email_to": "admin@example.com"}
    return open_notifiers(resolve(ExportOptions.from_keys({**values, **keys})).options.email)


def send(port: int, host: str = "localhost", **keys: object) -> None:
    (mailbox,) = channels(email_smtp_host=host, email_smtp_port=port, **keys)
    mailbox.send(MAIL)


def refusal(port: int, **keys: object) -> str:
    with pytest.raises(NotificationFailed) as caught:
        send(port, **keys)
    return str(caught.value)


# -- every kind of server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", [False, True], ids=["no login", "login"])
@pytest.mark.parametrize("tls", ["starttls", "ssl", "none"])
def test_a_mail_arrives(tls: str, login: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"email_username": "export@example.com"} if login else {}
    monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", PASSWORD)
    with smtp_server(tmp_path, tls=tls, login=("export@example.com", PASSWORD) if login else None) as postbox:
        trust(monkeypatch, postbox)
        send(postbox.port, email_tls=tls, email_to=TO, **keys)
    message = postbox.only()
    assert message["To"] == "admin@example.com, backup@example.com, ops@example.com"
    assert postbox.recipients == [TO.split(",")]
    assert postbox.encrypted == [tls != "none"]
    assert postbox.users == ["export@example.com" if login else None]
    assert (text_of(message).strip(), html_of(message).strip()) == (MAIL.text, MAIL.html)


def test_a_saved_block_brings_server_and_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp_server(tmp_path, tls="starttls", login=("export@example.com", PASSWORD)) as postbox:
        trust(monkeypatch, postbox)
        EmailServerCredentials(
            username="export@example.com",
            password=PASSWORD,
            smtp_server="localhost",
            smtp_type="STARTTLS",
            smtp_port=postbox.port,
        ).save("backup-mail", overwrite=True)
        (mailbox,) = channels(email_credentials="backup-mail", email_from=None)
        mailbox.send(MAIL)
    assert postbox.only()["From"] == "HyperExport <export@example.com>"


# -- what goes wrong, in words -----------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", PASSWORD + "x")
    with smtp_server(tmp_path, login=("export", PASSWORD)) as postbox:
        words = refusal(postbox.port, email_tls="none", email_username="export")
    assert "refused the user name or the password (535)" in words
    assert PASSWORD not in words
    assert postbox.messages == []


def test_a_server_that_is_down_is_told() -> None:
    assert "Connection refused" in refusal(closed_port(), email_tls="none")


def test_a_certificate_that_nobody_vouches_for_gets_no_mail(tmp_path: Path) -> None:
    for tls in ("starttls", "ssl"):
        with smtp_server(tmp_path, tls=tls) as postbox:
            assert "certificate is not trusted" in refusal(postbox.port, email_tls=tls)
        assert postbox.messages == []


def test_a_certificate_for_another_name_gets_no_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp_server(tmp_path, tls="ssl", address="127.0.0.2") as postbox:
        trust(monkeypatch, postbox)
        assert "certificate is not trusted" in refusal(postbox.port, email_tls="ssl", host="127.0.0.2")


def test_starttls_is_never_given_up_for_a_server_without_it(tmp_path: Path) -> None:
    with smtp_server(tmp_path) as postbox:
        assert "does not offer" in refusal(postbox.port, email_tls="starttls")
    assert postbox.messages == []


def test_tls_at_a_port_without_it_is_told(tmp_path: Path) -> None:
    with smtp_server(tmp_path) as postbox:
        assert "look at --email-tls and the port" in refusal(postbox.port, email_tls="ssl")


def test_one_unknown_recipient_costs_the_others_nothing(tmp_path: Path) -> None:
    with smtp_server(tmp_path) as postbox:
        words = refusal(postbox.port, email_tls="none", email_to="admin@example.com,gone@nobody.example")
    assert "refused for gone@nobody.example" in words
    assert postbox.recipients == [["admin@example.com"]]


def test_when_every_recipient_is_refused_the_servers_words_are_told(tmp_path: Path) -> None:
    with smtp_server(tmp_path) as postbox:
        assert "550 5.1.1 no such mailbox" in refusal(postbox.port, email_tls="none", email_to="gone@nobody.example")


def test_a_silent_server_holds_nobody_up(tmp_path: Path) -> None:
    with silent_server() as silent, smtp_server(tmp_path) as postbox:
        ways = channels(email_smtp_host="localhost", email_smtp_port=silent, email_tls="none")
        ways += channels(email_smtp_host="localhost", email_smtp_port=postbox.port, email_tls="none")
        warnings = notify(ways, MAIL, seconds=1)  # would last for ever, without a bound
    assert len(warnings) == 1
    assert "does not answer" in warnings[0]
    assert postbox.subjects() == [MAIL.subject]


# -- what is missing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"email_to": ()}, "--email-to"),
        ({"email_smtp_host": None}, "--email-smtp-host"),
        ({"email_from": None}, "--email-from"),
        ({"email_username": "export"}, "HYPEREXPORT_EMAIL_PASSWORD"),
        ({"email_smtp_host": None, "email_credentials": "not-there"}, "no Email Server Credentials block not-there"),
        ({"notify_webhook": "custom-webhook/not-there"}, "no block custom-webhook/not-there"),
    ],
)
def test_what_is_missing_is_named(keys: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        channels(**{"email_smtp_host": "localhost", **keys})


def test_a_block_that_cannot_notify_is_refused() -> None:
    Secret(value="x").save("no-webhook", overwrite=True)
    with pytest.raises(UsageError, match="secret/no-webhook is no notification block"):
        channels(email_notify=False, notify_webhook="secret/no-webhook")


def test_server_and_sender_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with smtp_server(tmp_path) as postbox:
        monkeypatch.setenv("HYPEREXPORT_SMTP_HOST", "localhost")
        monkeypatch.setenv("HYPEREXPORT_SMTP_PORT", str(postbox.port))
        monkeypatch.setenv("HYPEREXPORT_EMAIL_FROM", "env@example.com")
        (mailbox,) = channels(email_from="given@example.com", email_tls="none")
        mailbox.send(MAIL)
    assert postbox.only()["From"] == "HyperExport <given@example.com>"


# -- webhooks ----------------------------------------------------------------------------------------------------------


class Hook(http.server.ThreadingHTTPServer):
    """A chat's web address that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _HookHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/T0/{{{{token}}}}"


class _HookHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hook = self.server
        assert isinstance(hook, Hook)
        assert self.path == f"/T0/{TOKEN}"
        hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(hook.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Generator[Hook]:
    with Hook() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        CustomWebhookNotificationBlock(
            name="chat",
            url=server.url,
            json_data={"title": "{{subject}}", "text": "{{body}}"},
            headers={},
            cookies={},
            secrets={"token": TOKEN},  # Prefect writes a block's open fields into its events
        ).save("chat", overwrite=True)
        yield server
        server.shutdown()


def test_a_webhook_is_told_the_same(hook: Hook) -> None:
    (webhook,) = channels(email_notify=False, notify_webhook="custom-webhook/chat")
    webhook.send(MAIL)
    assert hook.told == [{"title": MAIL.subject, "text": MAIL.text}]


def test_a_webhook_that_fails_is_told_without_its_address(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    hook.status = 500
    (webhook,) = channels(email_notify=False, notify_webhook="custom-webhook/chat")
    with pytest.raises(NotificationFailed, match="custom-webhook/chat was not sent: it was answered with 500"):
        webhook.send(MAIL)
    hook.status = 200
    webhook.send(MAIL)
    assert len(hook.told) == 2
    assert TOKEN not in caplog.text


def test_mail_and_webhook_do_not_wait_for_each_other(hook: Hook, tmp_path: Path) -> None:
    with smtp_server(tmp_path) as postbox:
        ways = channels(
            email_smtp_host="localhost",
            email_smtp_port=postbox.port,
            email_tls="none",
            notify_webhook="custom-webhook/chat",
        )
        assert notify(ways, MAIL) == []
    assert len(hook.told) == len(postbox.messages) == 1
