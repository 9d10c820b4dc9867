"""A secret never shows: not in Prefect's database, not in a log, not in a store, not on a terminal.

Everything runs with known secrets, on good and on failing ways, and everything that was written is searched for them.
"""

import base64
import logging
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from prefect.settings import get_current_settings
from prefect_email import EmailServerCredentials

from blocks import VSphereCredentials
from blocks.export_profile import delete_profile
from cli.main import run
from flows import cleanup_exports, export_vm, vm_info
from hyperexport.errors import HyperExportError
from hyperexport.options import ExportOptions
from hyperexport.selection import Selection
from simulator import Fault, FaultKind, Simulator, VmSpec
from tests.engine.s3_servers import rclone_s3
from tests.flows.smtp_server import Postbox, smtp_server

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
    with Simulator([VmSpec("db01")], password=PASSWORD) as simulator:
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
    monkeypatch.setenv("GOVC_URL", f"https://backup:{PASSWORD}@{simulator.host}:1/sdk")
    with pytest.raises(HyperExportError):
        vm_info(Selection(vm=("db01",)))
    return [PASSWORD, MAIL_PASSWORD, s3.secret_key]


def test_no_secret_is_written_anywhere(
    guarded: Simulator,
    mailing_profile: Postbox,
    impatient_retries: None,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = run_everything(guarded, store, monkeypatch, tmp_path)

    told = capfd.readouterr()
    written = everything_written(store, *database().parent.glob(database().name + "*"))
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
