"""Automations, end to end: evaluated by a real Prefect server, their mails sent by ``hyperexport serve``."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.events import Event
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.settings import PREFECT_API_URL, temporary_settings

from hyperexport.cli.main import run
from hyperexport.deployments import automations
from hyperexport.deployments.automations import LEAKED_NAME, NAMES, SILENCE_NAME
from hyperexport.errors import UsageError
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.tasks import events
from tests.flows.service import Service, eventually
from tests.flows.smtp_server import Postbox, smtp_server, text_of

pytestmark = pytest.mark.timeout(400)

VM = VmRef(moref="vm-7", name="db01", path="/DC0/vm/db01", instance_uuid=str(uuid4()))
SHORTEST = timedelta(seconds=10)  # Prefect allows no shorter window without an event


@pytest.fixture
def postbox(tmp_path: Path) -> Iterator[Postbox]:
    with smtp_server(tmp_path) as box:
        yield box


@pytest.fixture
def served(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service, with this process talking to its Prefect server and our events going there."""

    def emit(event: str, *, resource: dict[str, str], payload: dict[str, object]) -> None:
        told = Event(event=event, resource=resource, payload=payload, occurred=datetime.now(UTC))
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[told.model_dump(mode="json")]).raise_for_status()

    # The thread that sends events keeps to the server of the tests.
    monkeypatch.setattr(events, "emit_event", emit)
    with temporary_settings({PREFECT_API_URL: service.prefect_api}):
        yield service
        automations.remove()


def mailed_to(postbox: Postbox) -> ExportOptions:
    keys = {"smtp_host": "127.0.0.1", "smtp_port": postbox.port, "tls": "none", "from": "a@example.com"}
    given = {f"email_{key}": value for key, value in keys.items()}
    return ExportOptions.from_keys({**given, "email_to": "ops@example.com"})


def notices() -> int:
    """How many runs the server has made to send a mail."""
    with get_client(sync_client=True) as client:
        return len(client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["send-notice"]))))


def test_a_leaked_snapshot_and_a_vm_without_a_success_are_mailed_about(served: Service, postbox: Postbox) -> None:
    made = automations.create(mailed_to(postbox), within=SHORTEST)
    assert [one.name for one in made] == list(NAMES)

    earlier, told = notices(), [0.0]

    def first_notice() -> bool:
        # The server takes up new automations when it comes to it: what happened before is not theirs. What happens
        # after is told by a run each, so no more is said than it takes.
        if time.monotonic() > told[0] + 5:
            events.emit_snapshot_leaked(VM, moref="snapshot-9", name="hyperexport-20261125", vcenter="vc.example.com")
            told[0] = time.monotonic()
        return notices() > earlier

    eventually(first_notice, "a run that mails about the snapshot")
    eventually(lambda: postbox.messages, "the mail about the snapshot")
    events._emit(events.COMPLETED, VM, {"export": "20261125T020000Z-00ff", "started": "2026-11-25T02:00:00+00:00"})
    eventually(lambda: len(set(postbox.subjects())) == 2, "the mail about the silence")
    mails = {str(message["Subject"]): text_of(message) for message in postbox.messages}
    assert mails.keys() == {
        "HyperExport: Snapshot left on /DC0/vm/db01",
        "HyperExport: No export of /DC0/vm/db01 for 10s",
    }
    assert "hyperexport-20261125 (snapshot-9)" in mails["HyperExport: Snapshot left on /DC0/vm/db01"]
    assert "20261125T020000Z-00ff" in mails["HyperExport: No export of /DC0/vm/db01 for 10s"]
    assert {tuple(to) for to in postbox.recipients} == {("ops@example.com",)}


def test_they_are_made_once_listed_and_removed_and_somebody_elses_stays(
    served: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    create = ["automations", "create", "--within=26h", "--email-to=ops@example.com", "--email-smtp-host=mail.example"]
    for _ in range(2):
        assert run([*create, "--quiet"]) == 0
    capsys.readouterr()
    assert run(["automations", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["automations"]
    assert [one["name"] for one in listed] == list(NAMES)
    assert "26h" in next(one["when"] for one in listed if one["name"] == SILENCE_NAME)
    assert run(["automations", "remove", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["automations"]) == 0
    assert "hyperexport automations create" in capsys.readouterr().out

    theirs = AutomationCore(name=LEAKED_NAME, trigger=EventTrigger(expect={"x"}), actions=[DoNothing()])
    with get_client(sync_client=True) as client:
        kept = client.create_automation(theirs)
        try:
            with pytest.raises(UsageError, match="did not make"):
                automations.create(ExportOptions(), within=timedelta(hours=26))
            assert automations.automations() == []
            assert [one.id for one in client.read_automations() if one.name == LEAKED_NAME] == [kept]
        finally:
            client.delete_automation(kept)
