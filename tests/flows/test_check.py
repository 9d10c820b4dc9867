"""A check from outside: it tries everything, changes nothing, and says what would fail tonight, in every face."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from hyperexport import notify
from hyperexport.blocks import VSphereCredentials
from hyperexport.cli.main import run
from hyperexport.deployments import definitions, schedules
from hyperexport.errors import SetupUnfit
from hyperexport.flows import check_setup, export_vm
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import Level, SetupReport
from hyperexport.simulator import DiskSpec, Permission, Simulator, UserSpec, VmSpec
from hyperexport.steps.plan import requirements
from hyperexport.store.local import LocalStore
from hyperexport.vsphere.privileges import Place
from tests.engine.s3_servers import rclone_s3
from tests.flows.smtp_server import closed_port, silent_server, smtp_server, trust
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

CHANGES = {"CreateSnapshot_Task", "RemoveSnapshot_Task", "ReconfigVM_Task", "ExportVm", "ExportSnapshot"}


@pytest.fixture(autouse=True)
def nothing_scheduled() -> None:
    """What other tests of this session scheduled, nobody runs: a check would say so."""
    for schedule in schedules.schedules():
        schedules.remove(schedule.full_name)


def failing(options: ExportOptions, **parameters: Any) -> SetupReport:
    with pytest.raises(SetupUnfit) as caught:
        check_setup(Selection(vm=("db01",)), options, **parameters)
    assert isinstance(caught.value.report, SetupReport)
    return caught.value.report


def wrong(report: SetupReport, level: Level = Level.FAIL) -> dict[str, str]:
    return {finding.what: finding.words for finding in report.having(level)}


def test_where_everything_works_everything_is_tried_and_nothing_changed(
    vcenter: Simulator, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", "a mail password")
    with (
        rclone_s3(tmp_path / "s3") as s3,
        smtp_server(tmp_path, tls="starttls", login=("export", "a mail password")) as postbox,
    ):
        s3.make_bucket("backups")
        trust(monkeypatch, postbox)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(s3.ca_file))
        mail = {"email_smtp_host": "localhost", "email_smtp_port": postbox.port, "email_username": "export"}
        mail |= {"email_from": "a@example.com", "email_to": "ops@example.com", "email_notify": True}
        places = {"output": store, "upload": "s3://backups/vms", "s3_endpoint": s3.endpoint_url}
        keys = {"snapshot": True, "incremental": True, "bandwidth_shared": "link", "bandwidth_limit": 10}
        options = ExportOptions.from_keys({**places, **mail, **keys})
        report = check_setup(Selection(vm=("db01",)), options)
        assert not list((tmp_path / "s3").rglob("*probe*"))
    assert wrong(report) == {}
    tried = [finding.what.split()[0] for finding in report.findings]
    for part in ("certificate", "login", "clock", "choice", "host", "privileges", "VMs", "datastores", "store", "mail"):
        assert part in tried
    assert {"Prefect", "shared"} <= set(tried)
    assert tried.count("store") == 2
    assert any("with STARTTLS, and the login is accepted" in finding.words for finding in report.findings)
    assert postbox.messages == []
    assert not CHANGES & set(vcenter.requests)
    assert leftovers(vcenter, store) == []
    assert not store.exists()
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["check"])))
    assert report.summary in {artifact.description for artifact in found}


def test_everything_that_would_fail_is_told_at_once_on_the_command_line(
    vcenter: Simulator, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_text("in the way")
    words = ["check", "--vm=db01", f"--output={store}", "--email-notify", "--email-to=a@example.com"]
    words += ["--email-smtp-host=localhost", f"--email-smtp-port={closed_port()}", "--email-from=b@example.com"]
    assert run([*words, "--bandwidth-shared=nowhere", "--quiet"]) == 1
    told = capsys.readouterr()
    keys = dict(line.split("=", 1) for line in told.out.splitlines())
    names = [key for key, value in keys.items() if key.endswith("_result") and value == "fail"]
    failed = {keys[name.removesuffix("_result")].split()[0] for name in names}
    assert failed == {"VMs", "store", "mail", "shared"}
    assert keys["fail"] == "4"
    assert "setup-unfit" in told.err
    assert "4 of" in told.err


def test_a_check_that_finds_nothing_exits_with_0_and_shows_all_of_it(
    vcenter: Simulator, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", "--match=db*", "--snapshot", f"--output={store}", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["checks"]
    assert {finding["level"] for finding in document["findings"]} == {"ok"}
    assert run(["check", "--vm=db01", "--snapshot", f"--output={store}"]) == 0
    shown = capsys.readouterr().out
    assert "host esx-01" in shown
    assert "nothing that would fail" in shown


def test_a_mail_server_that_keeps_silent_is_left(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SECONDS_FOR_MAIL", 0.2)
    with silent_server() as port:
        mail = {"email_smtp_host": "localhost", "email_smtp_port": port, "email_tls": "none"}
        mail |= {"email_from": "a@example.com", "email_to": "ops@example.com", "email_notify": True}
        report = failing(ExportOptions.from_keys({"output": store, "snapshot": True, **mail}))
    assert list(wrong(report).values()) == ["the server does not answer"]


def test_a_server_that_is_not_named_is_a_finding_among_others(store: Path) -> None:
    report = failing(ExportOptions.from_keys({"output": store}), vsphere="not-there")
    assert "no vSphere credentials block" in wrong(report)["vSphere"]
    assert any(finding.what.startswith("store") for finding in report.having(Level.OK))


def test_a_schedule_without_a_worker_is_told(vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobodys = definitions.Pool("nobodys", "process")  # the usual one may have had a worker of another test
    for name in ("deployment_of", "ensure_pool"):
        monkeypatch.setattr(schedules, name, partial(getattr(definitions, name), pool=nobodys))
    selection, options = Selection(vm=("db01",)), ExportOptions.from_keys({"output": store, "snapshot": True})
    plan = schedules.plan_export(
        "nobody-runs-it:0 2 * * *", selection, options, timezone="UTC", vsphere=None, profile=None
    )
    schedules.apply(plan)
    try:
        report = failing(options)
    finally:
        schedules.remove("nobody-runs-it")
    assert "nobody-runs-it would not run" in wrong(report)["work pool nobodys"]


def test_the_documented_role_is_enough_for_a_whole_export_and_the_next(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"output": store, "snapshot": True, "incremental": True, "consolidate_snapshots": True}
    options = ExportOptions.from_keys(keys)
    needs = requirements(options)
    places = {Place.VM: "/DC0/vm/backup", Place.DATASTORE: "/DC0/datastore"}
    roles = tuple(
        Permission(path, frozenset(need.privilege for need in needs if need.place is place))
        for place, path in places.items()
    )
    user = UserSpec("backup", "a password", permissions=(*roles, Permission("/DC0/host", frozenset())))
    with Simulator([VmSpec("db01", folder="backup", disks=(DiskSpec(8 << 20),))], users=(user,)) as simulator:
        VSphereCredentials(
            url=simulator.url,
            username=user.name,
            password=user.password,
            ca_certificates=simulator.ca_file.read_text(),
        ).save("narrow", overwrite=True)
        assert check_setup(Selection(vm=("db01",)), options, vsphere="narrow").having(Level.WARN) == ()
        first = export_vm("db01", options, vsphere="narrow")
        second = export_vm("db01", options, vsphere="narrow")
        assert first.warnings == second.warnings == ()
        assert second.plan.saved_percent == 100
        assert leftovers(simulator, store) == []
        for export in exports_in(store):
            assert exported_bytes(LocalStore(store), export) == guest_bytes(simulator, "db01")
