"""Who hears of an export, when, and what: by mail from the job itself, to a real mail server.

What a run in Prefect adds (its address, its blocks, its cancellation) is proved with flows; the rest by the same job
called directly.
"""

import base64
import logging
import re
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect_email import EmailServerCredentials

import hyperexport
from hyperexport.base import secrets as process_secrets
from hyperexport.cli.main import run
from hyperexport.errors import HyperExportError, NotificationFailed, SnapshotLeaked, UsageError
from hyperexport.flows import export_vm, send_test_email
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import Fault, FaultKind, Simulator
from tests.flows.smtp_server import Postbox, closed_port, html_of, silent_server, smtp_server, text_of
from tests.flows.support import exports_in, leftovers, while_transferring
from tests.flows.test_secrets import database, everything_written


@pytest.fixture
def postbox(tmp_path: Path) -> Generator[Postbox]:
    """A mail server without TLS or login."""
    with smtp_server(tmp_path) as server:
        yield server


def mailing(port: int, **keys: object) -> dict[str, Any]:
    return {
        "email_notify": True,
        "email_smtp_host": "127.0.0.1",
        "email_smtp_port": port,
        "email_tls": "none",
        "email_from": "export@example.com",
        "email_to": "admin@example.com,ops@example.com",
        **keys,
    }


def export(store: Path, **keys: object) -> Any:
    return hyperexport.export("db01", ExportOptions.from_keys({"output": store, "snapshot": True, **keys}))


def export_by_flow(store: Path, **keys: object) -> Any:
    return export_vm("db01", ExportOptions.from_keys({"output": store, "snapshot": True, **keys}))


# -- an export that succeeds -------------------------------------------------------------------------------------------


def test_start_and_end_are_told_to_everyone_with_what_the_contract_lists(
    vcenter: Simulator, store: Path, postbox: Postbox
) -> None:
    result = export_by_flow(store, verify=True, **mailing(postbox.port, email_on_start=True))

    assert postbox.subjects() == ["HyperExport: Export of db01 started", "HyperExport: db01 exported"]
    assert postbox.recipients == [["admin@example.com", "ops@example.com"]] * 2
    started, exported = (text_of(message) for message in postbox.messages)
    assert re.search(r"VM: +/.*/db01\n", started)
    assert re.search(r"Format: +OVF\n", started)
    (manifest,) = [stored.manifest for stored in exports_in(store)]
    for fact in (
        r"Duration: +[\d.]+ s",
        r"Transferred: +[\d.]+ MB",
        rf"Stored: +[\d.]+ MB in {len(manifest.files)} files",
        r"Saved: +nothing",
        r"Verified: +yes",
        rf"Destination: +{re.escape(result.locations[0])}",
        rf"vCenter: +{re.escape(manifest.vcenter)}",
        r"The run: http://",
    ):
        assert re.search(fact, exported), fact
    assert result.locations[0] in html_of(postbox.messages[1])
    assert result.warnings == ()


def test_a_mail_that_cannot_be_sent_is_a_warning_and_the_export_is_there(vcenter: Simulator, store: Path) -> None:
    result = export(store, **mailing(closed_port(), email_on_start=True))

    (stored,) = exports_in(store)
    assert [warning for warning in stored.manifest.warnings if "Connection refused" in warning]
    assert len([warning for warning in result.warnings if "Connection refused" in warning]) == 2


def test_who_wants_to_hear_of_failures_only_hears_of_nothing_else(
    vcenter: Simulator, store: Path, postbox: Postbox
) -> None:
    quiet = mailing(postbox.port, email_on_start=False, email_on_complete=False, email_on_failure=True)
    export(store, **quiet)
    assert postbox.messages == []

    vcenter.faults.add(Fault(FaultKind.CREATE_SNAPSHOT_FAILED, times=0))
    with pytest.raises(HyperExportError):
        export(store, **quiet)
    assert postbox.subjects() == ["HyperExport: Export of db01 FAILED"]


def test_a_dry_run_tells_nobody_and_checks_that_it_could(vcenter: Simulator, store: Path, postbox: Postbox) -> None:
    export(store, dry_run=True, **mailing(postbox.port, email_on_start=True))
    with pytest.raises(UsageError, match="--email-to"):
        export(store, dry_run=True, **mailing(postbox.port, email_to=()))
    assert postbox.messages == []


def test_a_mail_that_could_not_be_sent_is_refused_before_anything_is_touched(vcenter: Simulator, store: Path) -> None:
    asked = dict(vcenter.requests)
    with pytest.raises(UsageError, match="--email-smtp-host or HYPEREXPORT_SMTP_HOST"):
        export(store, email_notify=True, email_to="admin@example.com")
    assert vcenter.requests == asked
    assert not store.exists()


# -- one that fails ----------------------------------------------------------------------------------------------------


def test_a_failure_is_told_after_the_cleanup_with_step_reason_and_what_was_taken_back(
    vcenter: Simulator, store: Path, postbox: Postbox
) -> None:
    left: list[list[str]] = []
    postbox.on_arrival = lambda: left.append(leftovers(vcenter, store))
    vcenter.faults.add(Fault(FaultKind.TRUNCATE, disk=0, at_byte=400_000, times=0))

    with pytest.raises(HyperExportError) as caught:
        export_by_flow(store, **mailing(postbox.port))

    text = text_of(postbox.only())
    assert left == [[]], "everything was taken back before the mail came"
    for fact in (
        r"Step: +export-disk\n",
        r"Code: +stream-corrupt\n",
        r"Started: +20\d\d-",
        r"Failed: +20\d\d-",
        r"- snapshot hyperexport-\S+ was removed\n",
        rf"- the half-written export in {re.escape(str(store))} was discarded\n",
        r"The run: http://",
    ):
        assert re.search(fact, text), (fact, text)
    assert caught.value.what[1:] in " ".join(text.split())


@pytest.mark.parametrize(
    ("fault", "step", "cleaned_up"),
    [
        (FaultKind.CREATE_SNAPSHOT_FAILED, "take-snapshot", "half-written export in .* was discarded"),
        (FaultKind.DESCRIPTOR_ERROR, "describe-vm", "snapshot hyperexport-.* was removed"),
    ],
)
def test_the_step_that_failed_is_named(
    vcenter: Simulator, store: Path, postbox: Postbox, fault: FaultKind, step: str, cleaned_up: str
) -> None:
    vcenter.faults.add(Fault(fault, times=0))
    with pytest.raises(HyperExportError):
        export(store, **mailing(postbox.port))
    assert re.search(rf"Step: +{step}\n", text_of(postbox.only()))
    assert re.search(cleaned_up, text_of(postbox.only()))


def test_a_snapshot_that_stays_is_told(vcenter: Simulator, store: Path, postbox: Postbox) -> None:
    vcenter.faults.add(Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, times=0))
    with pytest.raises(SnapshotLeaked):
        export(store, **mailing(postbox.port))
    assert "could NOT be removed" in text_of(postbox.only())


def test_a_vm_that_is_not_there_is_told_too(vcenter: Simulator, store: Path, postbox: Postbox) -> None:
    with pytest.raises(HyperExportError):
        hyperexport.export("gone01", ExportOptions.from_keys({"output": store, **mailing(postbox.port)}))
    assert postbox.subjects() == ["HyperExport: Export of gone01 FAILED"]
    assert re.search(r"Step: +inspect-vm\n", text_of(postbox.only()))
    assert "There was nothing to clean up." in text_of(postbox.only())


def interrupt() -> None:
    """Do to this process what Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_a_run_that_is_stopped_tells_so_after_its_cleanup(vcenter: Simulator, store: Path, postbox: Postbox) -> None:
    left: list[list[str]] = []
    postbox.on_arrival = lambda: left.append(leftovers(vcenter, store))
    with while_transferring(interrupt), pytest.raises(KeyboardInterrupt):
        export_by_flow(store, bandwidth_limit=1, bandwidth_burst=0.1, **mailing(postbox.port))
    assert postbox.subjects() == ["HyperExport: Export of db01 stopped"]
    assert left == [[]]
    assert "was removed" in text_of(postbox.only())


def test_a_silent_mail_server_does_not_hold_up_a_run_that_is_stopped(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperexport.jobs.notices.SECONDS_TO_SEND", 10_000)  # not this one
    monkeypatch.setattr("hyperexport.jobs.notices.SECONDS_WHEN_STOPPED", 0.5)
    with silent_server() as port, while_transferring(interrupt), pytest.raises(KeyboardInterrupt):
        export(store, bandwidth_limit=1, bandwidth_burst=0.1, **mailing(port))
    assert leftovers(vcenter, store) == []


# -- the test of it ----------------------------------------------------------------------------------------------------


def test_a_test_mail_needs_nothing_but_the_mail_options(postbox: Postbox) -> None:
    sent = send_test_email(ExportOptions.from_keys(mailing(postbox.port, email_notify=False)))
    assert sent == ["mail to admin@example.com, ops@example.com by 127.0.0.1"]
    assert postbox.subjects() == ["HyperExport: Test of the notifications"]


def test_a_test_mail_that_does_not_arrive_fails() -> None:
    with pytest.raises(NotificationFailed, match="Connection refused"):
        send_test_email(ExportOptions.from_keys(mailing(closed_port())))


@pytest.fixture
def forgotten_password() -> Generator[None]:
    """Whatever password a command line of the test gives is forgotten afterwards."""
    yield
    process_secrets._kept.clear()


def test_the_command_line_sends_a_test_with_a_password_of_its_own(
    tmp_path: Path, forgotten_password: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["send-test-email", "--email-smtp-host=127.0.0.1", "--email-tls=none", "--quiet"]
    words += ["--email-to=admin@example.com", "--email-username=export@example.com"]
    with smtp_server(tmp_path, login=("export@example.com", "right")) as postbox:
        words += ["--email-smtp-port", str(postbox.port)]
        assert run([*words, "--email-password", "right"]) == 0
        assert capsys.readouterr().out == "sent=mail to admin@example.com by 127.0.0.1\n"
        assert run([*words, "--email-password", "wrong-password"]) == 1
        told = capsys.readouterr()
    assert postbox.users == ["export@example.com"]
    assert told.out == ""
    assert "[notification-failed]" in told.err
    assert "wrong-password" not in told.err


# -- secrets -----------------------------------------------------------------------------------------------------------

SECRETS = ("Mail-s3cret-passw0rd", "Hook-s3cret-t0ken")


@pytest.mark.usefixtures("events_are_emitted")
def test_no_password_of_a_mail_server_and_no_address_of_a_webhook_is_written_anywhere(
    vcenter: Simulator,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    password, token = SECRETS
    CustomWebhookNotificationBlock(
        name="chat",
        url=f"http://127.0.0.1:{closed_port()}/{{{{token}}}}",
        json_data={"text": "{{body}}"},
        headers={},
        cookies={},
        secrets={"token": token},
    ).save("secret-chat", overwrite=True)
    hook = {"notify_webhook": "custom-webhook/secret-chat"}
    with smtp_server(tmp_path, login=("export", password)) as postbox:
        keys = mailing(postbox.port, email_username="export", email_on_start=True, **hook)
        block = EmailServerCredentials(
            username="export", password=password, smtp_server="127.0.0.1", smtp_type="INSECURE", smtp_port=postbox.port
        )
        block.save("secret-mail", overwrite=True)
        by_block = {"email_notify": True, "email_credentials": "secret-mail", "email_to": "admin@example.com", **hook}
        monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", password)
        export_by_flow(store, **keys)
        export_by_flow(store, **by_block, email_from="export@example.com")
        vcenter.faults.add(Fault(FaultKind.CREATE_SNAPSHOT_FAILED, times=0))
        with pytest.raises(HyperExportError):
            export_by_flow(store, **keys)
        monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", f"wrong-{password}")
        with pytest.raises(NotificationFailed):
            send_test_email(ExportOptions.from_keys(keys))

    told = capfd.readouterr()
    written = everything_written(store, *database().parent.glob(database().name + "*"))
    written |= {"log": caplog.text.encode(), "stdout": told.out.encode(), "stderr": told.err.encode()}
    written |= {f"mail {number}": message.as_bytes() for number, message in enumerate(postbox.messages)}
    assert len(postbox.messages) == 5  # start, end; end; start, failure
    assert "secret-chat was not sent" in caplog.text
    for secret in SECRETS:
        for form in (secret.encode(), base64.b64encode(f"\0export\0{secret}".encode())):
            assert [name for name, content in written.items() if form in content] == []
