"""The jobs API from outside: the documented request, its answers, who may ask, and that it keeps nothing itself."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings

import hyperexport
from hyperexport.blocks.export_profile import save_profile
from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.job_model import read_jobs
from hyperexport.deployments.jobs_api import create_api
from hyperexport.deployments.serve import listen
from hyperexport.deployments.stored_export_jobs import DrillJob, RestoreJob, read_stored_job
from hyperexport.errors import UsageError
from hyperexport.notify import open_mailbox
from hyperexport.options.precedence import ExportOptions, leaves, resolve
from tests.flows.service import Service, eventually
from tests.flows.support import exports_in, leftovers

pytestmark = pytest.mark.timeout(400)

NOBODY = "00000000-0000-4000-8000-000000000000"


def ask(service: Service, path: str, body: Any = None) -> tuple[int, Any]:
    """One request; with a body it is a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(service.jobs_api + path, data, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def job(service: Service, job_id: str) -> dict[str, Any]:
    code, found = ask(service, f"/api/v1/jobs/{job_id}")
    assert code == 200, found
    return found


def test_the_documented_request_exports_a_vm(service: Service, tmp_path: Path):
    output = tmp_path / "MyVM"
    code, answer = ask(
        service,
        "/api/v1/jobs",
        {
            "vm_path": "/DC0/vm/db01",
            "output_path": str(output),
            "snapshot": True,
            "incremental": True,
            "bandwidth_limit_mbps": 20,
            "email_notify": False,
        },
    )
    assert (code, answer["accepted"], answer["rejected"], answer["errors"]) == (202, 1, 0, [])
    (job_id,) = answer["job_ids"]
    done = eventually(lambda: (found := job(service, job_id))["finished"] and found, "the job's end")
    assert (done["state"], done["error"], done["vm"]) == ("Completed", None, "/DC0/vm/db01")
    (export,) = exports_in(output)
    assert export.export_id in done["summary"]
    assert {item["percent"] for item in done["progress"]} == {100.0}
    assert any("transferred" in item["description"] for item in done["progress"])
    assert export.manifest.options["bandwidth_limit"] == 20
    listed = ask(service, "/api/v1/jobs?state=COMPLETED")[1]["jobs"]
    assert job_id in [item["id"] for item in listed]
    assert ask(service, f"/jobs/{job_id}")[0] == 200
    assert ask(service, f"/api/v1/jobs/{job_id}/cancel", {})[0] == 409


def test_a_restore_and_a_drill_are_jobs_like_any_other(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "exports"
    for name, value in service.simulator.environment().items():
        monkeypatch.setenv(name, value)
    hyperexport.export("db01", output=output, snapshot=True)

    request = {"name": "db01-by-job", "host": "esx-01", "networks": ["none"]}
    code, answer = ask(
        service, "/api/v1/restores", {"vm": "db01", "restore": request, "options": {"output": str(output)}}
    )

    assert code == 202, answer
    done = eventually(lambda: (found := job(service, answer["job_ids"][0]))["finished"] and found, "the job's end")
    assert (done["state"], done["error"], done["vm"]) == ("Completed", None, "db01")
    assert "db01-by-job" in {vm.name for vm in service.simulator.vms()}

    there = {vm.name for vm in service.simulator.vms()}
    wish = {"vm": "db01", "target": "vsphere", "place": {"host": "esx-01"}, "options": {"output": str(output)}}
    code, answer = ask(service, "/api/v1/drills", wish)

    assert code == 202, answer
    done = eventually(lambda: (found := job(service, answer["job_ids"][0]))["finished"] and found, "the job's end")
    assert (done["state"], done["error"], done["vm"]) == ("Completed", None, "db01")
    assert "heartbeat" in done["summary"]
    assert len(list(output.rglob("drill-*.json"))) == 1
    assert {vm.name for vm in service.simulator.vms()} == there


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"vm": "db01", "export": "x"}, "one export must be named"),
        ({"vm": "db01", "restore": {"color": "red"}}, "color"),
        ({"vm": "db01", "restore": {"attach_to": "x"}}, "--attach-to needs the disks"),
        ({"vm": "db01", "options": {"output": "/etc"}}, "output_path /etc"),
        ({"vm": "db01", "options": {"email_notify": True}}, "--email-notify needs --email-to"),
    ],
)
def test_a_restore_that_makes_no_sense_is_refused_with_words(document: dict[str, Any], words: str, tmp_path: Path):
    parameters, errors = read_stored_job(RestoreJob.model_validate(document), AllowedRoots((str(tmp_path),)))
    assert parameters is None
    assert words in errors[0]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "no export is chosen for the drill"),
        ({"vm": "db01", "export": "x"}, "one export must be named"),
        ({"vm": "db01", "target": "vsphere", "expect": "login:"}, "--expect would have no effect"),
        ({"vm": "db01", "place": {"folder": "drills"}}, "--folder would have no effect"),
        ({"most": 3, "options": {"output": "/etc"}}, "output_path /etc"),
        ({"most": 3, "options": {"email_notify": True}}, "--email-notify needs --email-to"),
    ],
)
def test_a_drill_that_makes_no_sense_is_refused_with_words(document: dict[str, Any], words: str, tmp_path: Path):
    parameters, errors = read_stored_job(DrillJob.model_validate(document), AllowedRoots((str(tmp_path),)))
    assert parameters is None
    assert words in errors[0]


def test_a_cancelled_job_leaves_nothing_behind(service: Service, tmp_path: Path):
    store = tmp_path / "exports"
    with temporary_settings({PREFECT_API_URL: service.prefect_api}):
        save_profile("slowly", ExportOptions.from_keys({"output": store, "snapshot": True, "bandwidth_limit": 1}))
    _, answer = ask(service, "/jobs/submit", [{"vm": "big", "profile": "slowly"}])
    (job_id,) = answer["job_ids"]
    eventually(lambda: service.simulator.leases() and list(store.rglob("*.vmdk*")), "a transfer")
    assert ask(service, "/status")[1]["running"] == 1
    code, cancelling = ask(service, f"/api/v1/jobs/{job_id}/cancel", {})
    assert (code, cancelling["state"]) == (202, "Cancelling")
    done = eventually(lambda: (found := job(service, job_id))["finished"] and found, "the job's end")
    assert done["state"] == "Cancelled"
    assert leftovers(service.simulator, store) == []
    assert exports_in(store) == []
    assert "has ended" in ask(service, "/jobs/cancel", {"job_ids": [job_id]})[1]["errors"][0]


def test_what_makes_no_sense_is_refused_by_name(service: Service):
    bad = [
        ({"vm_path": "db01", "bandwith_limit": 5}, "there is no option bandwith_limit"),
        ({"vm_path": "db01", "email_password": "s3cret"}, "there is no option email_password"),
        ({"vm_path": "db01", "keep_snapshots": -1}, "keep_snapshots"),
        ({"vm_path": "db01", "snapshot": True, "snapshot_memory": True, "quiesce_required": True}, "memory"),
        ({"vm_path": "db01", "profile": "nobody"}, "there is no profile nobody"),
        ({"snapshot": True}, "vm_path"),
        ("db01", "job 6"),
    ]
    code, answer = ask(service, "/api/v1/jobs", {"jobs": [item for item, _ in bad]})
    assert (code, answer["accepted"], answer["rejected"], answer["job_ids"]) == (422, 0, len(bad), [])
    for (_, words), error in zip(bad, answer["errors"], strict=True):
        assert words in error
    assert "s3cret" not in json.dumps(answer)
    assert ask(service, "/api/v1/jobs", {"jobs": []})[0] == 422


def test_a_job_beside_a_refused_one_is_accepted_and_says_why_it_failed_without_a_traceback(
    service: Service, tmp_path: Path
):
    fails = {"vm_path": "db01", "output_path": str(tmp_path / "exports")}  # db01 is on, and no snapshot is asked for
    code, answer = ask(service, "/api/v1/jobs", [{"vm_path": "db01", "bandwith_limit": 5}, fails])
    assert (code, answer["accepted"], answer["rejected"]) == (202, 1, 1)
    (job_id,) = answer["job_ids"]
    eventually(lambda: service.processes_of(job_id), "the run's process")

    done = eventually(lambda: (found := job(service, job_id))["finished"] and found, "the job's end")

    assert done["state"] == "Failed"
    assert done["error"].endswith("[vm-powered-on]")
    # What the process logs at its end, after the state, it has sent when it is gone.
    eventually(lambda: not service.processes_of(job_id), "the process's end")
    of_job = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(job_id)]))
    with temporary_settings({PREFECT_API_URL: service.prefect_api}), get_client(sync_client=True) as client:
        logged = [log.message for log in client.read_logs(of_job)]
    assert [line for line in logged if "vm-powered-on" in line]
    assert [line for line in logged if "Traceback" in line or "unexpected" in line] == []


def test_a_job_that_is_not_there_is_not_found(service: Service):
    assert ask(service, f"/api/v1/jobs/{NOBODY}")[0] == 404
    assert ask(service, f"/api/v1/jobs/{NOBODY}/cancel", {})[0] == 404
    assert ask(service, "/health") == (200, {"status": "ok"})


def test_the_openapi_page_describes_every_option():
    schema = create_api(None, local_only=True).openapi()
    fields = schema["components"]["schemas"]["Job"]["properties"]
    for leaf in leaves():
        name = {"output": "output_path", "bandwidth_limit": "bandwidth_limit_mbps"}.get(leaf.key, leaf.key)
        assert fields[name]["description"] == leaf.field.description, leaf.key
    assert {"vm_path", "vsphere_block", "profile"} <= set(fields)
    body = schema["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"$ref": "#/components/schemas/Job"} in body["anyOf"]


def test_null_is_the_same_as_leaving_it_out():
    jobs, errors = read_jobs(
        {"vm_path": "db01", "delete_snapshot": None, "upload": None, "parallel": 2}, AllowedRoots.of_service()
    )
    assert errors == []
    (options,) = [job["options"] for job in jobs]
    assert options.pop("destination").keys() == {"output"}
    assert options == {"execution": {"parallel": 2}}


def test_a_token_is_asked_for_and_nothing_else_will_do():
    with TestClient(create_api("right", local_only=False)) as client:
        assert client.get("/health").status_code == 200
        for path in ("/api/v1/jobs", f"/api/v1/jobs/{NOBODY}", "/status", f"/jobs/{NOBODY}"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        for path in ("/api/v1/jobs", "/jobs/submit", "/jobs/cancel", f"/api/v1/jobs/{NOBODY}/cancel"):
            assert client.post(path, json={"vm_path": "db01"}).status_code == 401
        assert client.get("/api/v1/jobs", headers={"Authorization": "Bearer right"}).status_code == 200


def test_without_a_token_only_this_machine_may_ask():
    with pytest.raises(UsageError, match="HYPEREXPORT_API_TOKEN"):
        listen("0.0.0.0", 0, None)
    with listen("127.0.0.1", 0, None) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with TestClient(create_api(None, local_only=True)) as client:
        assert client.get("/status", headers={"Host": "127.0.0.1:8080"}).status_code == 200
        assert client.get("/status", headers={"Host": "rebound.example.com"}).status_code == 400
    assert "HYPEREXPORT_API_TOKEN" not in os.environ


@pytest.mark.parametrize(
    "given",
    [
        {"output_path": "/etc/hyperexport"},
        {"output_path": "stores/../../outside"},
        {"output_path": "link/exports"},
        {"output_path": "~/exports"},
        {"upload": "s3://other/backups"},
        {"upload": "s3://bucket/backups-of-others"},
        {"s3_endpoint": "https://s3.evil.example"},
    ],
)
def test_a_job_writes_only_where_the_service_lets_it(given: dict[str, str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "link").symlink_to("/")
    allowed = AllowedRoots(("stores", "s3://bucket/backups"))
    if "output_path" in given and given["output_path"].startswith("link"):
        given = {"output_path": "stores/link/exports"}
    jobs, errors = read_jobs({"vm_path": "db01", "keep_local": True, **given}, allowed)
    assert jobs == []
    assert next(iter(given.values())) in errors[0]


def test_a_job_may_write_below_the_roots_and_by_default_into_the_services_own_store(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_OUTPUT", str(tmp_path / "own"))
    own = AllowedRoots.of_service()
    assert read_jobs({"vm_path": "db01", "output_path": str(tmp_path / "own" / "db01")}, own)[1] == []
    assert read_jobs({"vm_path": "db01"}, own)[1] == []
    assert read_jobs({"vm_path": "db01", "output_path": str(tmp_path / "other")}, own)[0] == []
    wide = AllowedRoots.of_service((str(tmp_path), "s3://bucket/a"))
    assert (
        read_jobs({"vm_path": "db01", "output_path": str(tmp_path / "x"), "upload": "s3://bucket/a/b"}, wide)[1] == []
    )


def test_a_page_of_another_site_reads_no_block_and_cancels_no_job(service: Service):
    evil = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    for url in (f"{service.prefect_api}/block_documents/filter", f"{service.jobs_api}/api/v1/jobs/{NOBODY}/cancel"):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(url, b"{}", evil), timeout=60)
        with refused.value as answer:
            assert answer.code == 403
            assert "access-control-allow-origin" not in answer.headers
    rebound = {"Host": "evil.example", "Content-Type": "application/json"}
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(f"{service.prefect_api}/block_documents/filter", b"{}", rebound), timeout=60)
    own = {"Origin": service.prefect_api.removesuffix("/api"), "Content-Type": "application/json"}
    with urlopen(Request(f"{service.prefect_api}/block_documents/filter", b"{}", own), timeout=60) as answer:
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == own["Origin"]


def test_a_job_cannot_have_the_services_mail_password_sent_to_a_server_of_its_own(monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", "not-for-you")
    elsewhere = {"email_smtp_host": "127.0.0.1", "email_smtp_port": 2525, "email_tls": "none", "email_username": "x"}
    mail = {"email_notify": True, "email_to": "a@example.com", "email_from": "b@example.com", **elsewhere}
    jobs, errors = read_jobs({"vm_path": "db01", **mail}, AllowedRoots.of_service())
    assert jobs == []
    assert "HYPEREXPORT_SMTP_HOST" in errors[0]

    monkeypatch.setenv("HYPEREXPORT_SMTP_HOST", "mail.example.com")
    monkeypatch.setenv("HYPEREXPORT_EMAIL_USERNAME", "backup")
    _, (refusal,) = read_jobs({"vm_path": "db01", **mail}, AllowedRoots.of_service())
    assert "is for mail.example.com port 587" in refusal
    named = {"smtp_host": "127.0.0.1", "smtp_port": 2525, "tls": "none", "username": "x"}
    taken = {"options": {"email": {"notify": True, "to": "a@example.com", "sender": "b@example.com", **named}}}
    weaker = {"smtp_host": "mail.example.com", "smtp_port": 587, "tls": "none"}
    for change in ({}, weaker, {"smtp_host": "other.example.com"}):
        email = {**taken["options"]["email"], **change}
        with pytest.raises(UsageError, match=r"is for mail\.example\.com port 587") as refused:
            open_mailbox(resolve(ExportOptions.model_validate({"email": email})).options.email)
        assert "not-for-you" not in str(refused.value)
    own = {**taken["options"]["email"], "smtp_host": "mail.example.com", "smtp_port": 587, "tls": "starttls"}
    assert open_mailbox(resolve(ExportOptions.model_validate({"email": own})).options.email)


@pytest.mark.parametrize(
    ("mail", "named"),
    [
        ({"email_notify": True}, "--email-to"),
        ({"email_notify": True, "email_to": "a@example.com"}, "mail server"),
        ({"email_notify": True, "email_to": "a@example.com", "email_smtp_host": "mail.example.com"}, "--email-from"),
        ({"notify_webhook": ["slack-webhook/nobody"]}, "slack-webhook/nobody"),
    ],
)
def test_a_job_whose_mails_could_not_be_sent_is_refused(mail, named):
    jobs, errors = read_jobs({"vm_path": "db01", **mail}, AllowedRoots.of_service())
    assert jobs == []
    assert named in errors[0]
