"""A secret never shows: not in Prefect's database, not in a log, not in a store, not on a terminal.

Everything runs with known secrets, on good and on failing ways, and everything that was written is searched for them.
"""

import base64
import logging
import os
import sys
import traceback
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient
from prefect.settings import get_current_settings
from prefect_email import EmailServerCredentials

from hyperexport.blocks import VSphereCredentials
from hyperexport.blocks.export_profile import delete_profile
from hyperexport.cli.main import run
from hyperexport.deployments import local_server
from hyperexport.deployments.jobs_api import create_api
from hyperexport.errors import HyperExportError
from hyperexport.flows import check_setup, cleanup_exports, export_vm, vm_info
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.simulator.nfc import NfcHandler
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import connect
from tests.engine.s3_servers import rclone_s3
from tests.flows.service import eventually
from tests.flows.smtp_server import Postbox, smtp_server

pytestmark = pytest.mark.usefixtures("events_are_emitted")

PASSWORD = "Sup3r-s3cret-passw0rd"
MAIL_PASSWORD = "Pr0file-s3cret-passw0rd"


def database() -> Path:
    """The file of the Prefect server that the tests talk to."""
    url = get_current_settings().server.database.connection_url.get_secret_value()
    return Path(url.partition("///")[2].partition("?")[0])


def everything_written(*places: Path) -> dict[str, bytes]:
    """Every byte in these files and folders."""
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    return {str(file): file.read_bytes() for file in files}


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch):
    with Simulator([VmSpec("db01", disks=(DiskSpec(2 << 20),))], password=PASSWORD) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def mailing_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Postbox]:
    """A saved profile, guarded, that mails by a saved block, and the server that it mails to.

    It is saved where the environment has a password of the mail server too.
    """
    with smtp_server(tmp_path, login=("export", MAIL_PASSWORD)) as postbox:
        EmailServerCredentials(
            username="export",
            password=MAIL_PASSWORD,
            smtp_server="127.0.0.1",
            smtp_type="INSECURE",
            smtp_port=postbox.port,
        ).save("guarded-mail", overwrite=True)
        monkeypatch.setenv("HYPEREXPORT_EMAIL_PASSWORD", MAIL_PASSWORD)
        mail = ["--email-notify", "--email-credentials=guarded-mail", "--email-from=a@example.com"]
        assert run(["--save-profile=guarded", "--snapshot", *mail, "--email-to=admin@example.com"]) == 0
        yield postbox
    delete_profile("guarded")


def run_everything(simulator: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Good runs and bad ones, by the environment, blocks and a profile, locally and to S3, with logs at their loudest.

    Returns:
        The secrets that they knew.
    """
    logging.getLogger("hyperexport").setLevel(logging.DEBUG)
    VSphereCredentials(
        url=simulator.url,
        username=simulator.username,
        password=PASSWORD,
        ca_certificates=simulator.ca_file.read_text(),
    ).save("guarded", overwrite=True)
    vm_info(Selection(vm=("db01",)), vsphere="guarded")
    vm_info(Selection(vm=("db01",)), vsphere=VSphereCredentials.load("guarded"))
    with rclone_s3(tmp_path / "s3") as s3:
        s3.make_bucket("backups")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(s3.ca_file))
        keys = {"output": store, "upload": "s3://backups/vms", "s3_endpoint": s3.endpoint_url}
        options = ExportOptions.from_keys({**keys, "verify": True, "incremental": True, "cleanup": True})
        export_vm("db01", options, profile="guarded")
        cleanup_exports(options)
        places = [f"--output={store}", "--upload=s3://backups/vms", f"--s3-endpoint={s3.endpoint_url}"]
        assert run(["check", "--vm=db01", "--profile=guarded", *places]) == 0
        for fault in (FaultKind.CUT, FaultKind.LEASE_ERROR, FaultKind.CREATE_SNAPSHOT_FAILED):
            simulator.faults.add(Fault(fault, at_byte=1000, times=0))
            with pytest.raises(HyperExportError):
                export_vm("db01", options, profile="guarded")
            simulator.faults.clear()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key + "x")
        with pytest.raises(HyperExportError):
            export_vm("db01", options, profile="guarded")
    monkeypatch.setenv("GOVC_PASSWORD", PASSWORD + "x")
    with pytest.raises(HyperExportError):
        export_vm("db01", options, profile="guarded")
    assert run(["--vm=db01", f"--output={store}", f"--email-password={MAIL_PASSWORD}", "--debug"]) == 1
    monkeypatch.setenv("GOVC_URL", f"https://backup:{PASSWORD}@{simulator.host}:1/sdk")
    with pytest.raises(HyperExportError):
        vm_info(Selection(vm=("db01",)))
    with pytest.raises(HyperExportError):
        check_setup(Selection(vm=("db01",)), options, profile="guarded")
    return [PASSWORD, MAIL_PASSWORD, s3.secret_key]


def ask_the_jobs_api(secrets: list[str]) -> dict[str, bytes]:
    """What the jobs API says: of itself, of jobs that failed, and to who sends it passwords, which are no fields."""
    with TestClient(create_api(None, local_only=False)) as client:
        given = {"vm": "db01", **{f"email_password_{number}": secret for number, secret in enumerate(secrets)}}
        answers = [
            client.get("/openapi.json"),
            client.get("/api/v1/jobs"),
            client.get("/status"),
            client.post("/api/v1/jobs", json=given),
            client.post("/api/v1/jobs", json=[{"vm": "db01", "vsphere_block": {"password": secrets[0]}}]),
            client.post("/api/v1/jobs", json={"vm": "db01", "bandwidth_limit_mbps": secrets[0]}),
        ]
        jobs = client.get("/api/v1/jobs").json()["jobs"]
        answers += [client.get(f"/api/v1/jobs/{job['id']}") for job in jobs[:5]]
    assert [answer.status_code for answer in answers[3:6]] == [422] * 3
    return {f"jobs API {number}": answer.content for number, answer in enumerate(answers)}


def test_no_secret_is_written_anywhere(
    guarded: Simulator,
    mailing_profile: Postbox,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = run_everything(guarded, store, monkeypatch, tmp_path)

    answers = ask_the_jobs_api(secrets)
    told = capfd.readouterr()
    assert "Traceback" in told.err, "--debug was asked for"
    written = everything_written(store, *database().parent.glob(database().name + "*"))
    written |= answers
    written |= {"log": caplog.text.encode(), "stdout": told.out.encode(), "stderr": told.err.encode()}
    written |= {f"mail {number}": message.as_bytes() for number, message in enumerate(mailing_profile.messages)}
    assert mailing_profile.users == ["export"] * 6, "one export, five failures"
    assert any(b"db01" in content for name, content in written.items() if name.startswith(str(database())))
    for secret in secrets:
        for form in (secret.encode(), base64.b64encode(f"\0export\0{secret}".encode())):
            assert [name for name, content in written.items() if form in content] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "leak").write_text(f"oops {PASSWORD}")
    assert any(PASSWORD.encode() in content for content in everything_written(tmp_path).values())
    assert os.environ.get("GOVC_PASSWORD") is None


def test_a_child_process_is_told_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any user of the machine reads a process's arguments; its own user, and root, its environment."""
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\ntouch $0.began\nexec cat >/dev/null\n")
    stub.chmod(0o755)
    seen: dict[str, bytes] = {}

    def look(_url: str, _log: object) -> None:
        (child,) = (one for one in psutil.Process().children() if is_the_stub(one))
        for name in ("cmdline", "environ"):
            seen[name] = Path(f"/proc/{child.pid}/{name}").read_bytes()
        child.kill()
        child.wait()

    def is_the_stub(process: psutil.Process) -> bool:
        return eventually(lambda: stub.with_name("python.began").exists(), "the child's beginning") and (
            process.name() in {"cat", "python"} and process.environ().get("MARK") == str(tmp_path)
        )

    for name in ("GOVC_PASSWORD", "HYPEREXPORT_EMAIL_PASSWORD", "HYPEREXPORT_API_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, PASSWORD)
    monkeypatch.setenv("MARK", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setattr(sys, "executable", str(stub))
    monkeypatch.setattr(local_server, "_await", look)
    monkeypatch.setattr(local_server.atexit, "register", lambda *_: None)
    local_server.start(0)
    assert str(tmp_path).encode() in seen["environ"]
    assert [name for name, content in seen.items() if PASSWORD.encode() in content] == []


def test_a_failed_login_leaves_no_password_in_the_variables_of_a_traceback(guarded: Simulator) -> None:
    """Crash reporters write the variables of each frame down; an error's own chain holds none of ours."""
    endpoint = VSphereEndpoint.model_validate(
        {"url": guarded.url, "username": "nobody", "password": PASSWORD, "ca_file": guarded.ca_file}
    )
    with pytest.raises(HyperExportError) as caught, connect(endpoint):
        pass
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "_log_in" in told
    assert PASSWORD not in told


def test_no_host_of_a_lease_is_sent_the_session(
    guarded: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address carries its own ticket (govmomi, simulator/http_nfc_lease.go): a host is never told our login."""
    heard: list[str] = []

    def listen(handler: NfcHandler) -> None:
        heard.append(str(handler.headers))
        download(handler)

    download = NfcHandler.do_GET
    monkeypatch.setattr(NfcHandler, "do_GET", listen)
    export_vm("db01", ExportOptions.from_keys({"output": store, "snapshot": True}))
    assert heard, "disks were downloaded"
    for headers in heard:
        assert "cookie" not in headers.lower()
        assert "authorization" not in headers.lower()
