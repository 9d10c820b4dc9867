"""The report beside a vCenter's inventory: which VMs have no export, and how old each one's newest good one is."""

import json
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest

import hyperexport
from hyperexport.cli.main import run
from hyperexport.errors import ServerUnreachable, StoreUnusable, VerificationFailed
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.report import report
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from hyperexport.views.coverage import Coverage

RPO = timedelta(hours=26)
SPECS = tuple(VmSpec(name, powered_on=False, disks=(DiskSpec(1 << 20),)) for name in ("app01", "db01", "web01"))


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    with Simulator(SPECS) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


def covered(store: Path) -> Coverage:
    found = report(DirectRunner(), ExportOptions.from_keys({"output": store}), inventory=True)
    assert found.error is None
    assert found.coverage
    return found.coverage


def rename(simulator: Simulator, old: str, new: str) -> None:
    machine = simulator.vm(old)._machine  # pyright: ignore[reportPrivateUsage] - as vCenter's own client does it
    machine.settings.name = machine._name = new  # pyright: ignore[reportPrivateUsage]


def states(found: Coverage) -> dict[str, str]:
    return {vm.ref.name: vm.state(found.taken, RPO) for vm in found.vms}


def test_vms_that_were_never_exported_are_named_and_come_first(vcenter: Simulator, tmp_path: Path) -> None:
    hyperexport.export("db01", output=tmp_path)
    found = covered(tmp_path)
    assert states(found) == {"app01": "never exported", "db01": "protected", "web01": "never exported"}
    assert [str(row["VM"]).rpartition("/")[2] for row in found.rows(RPO)] == ["app01", "web01", "db01"]
    assert found.title(RPO).startswith(f"{found.server}: 1 of 3 VMs have a good export")
    late = [vm for vm in found.vms if not vm.is_covered(found.taken + 2 * RPO, RPO)]
    assert len(late) == 3


def test_a_renamed_vm_keeps_its_exports_and_a_new_vm_of_its_old_name_has_none(
    vcenter: Simulator, tmp_path: Path
) -> None:
    hyperexport.export("db01", output=tmp_path)
    rename(vcenter, "db01", "db01-old")
    rename(vcenter, "web01", "db01")
    assert states(covered(tmp_path)) == {"app01": "never exported", "db01-old": "protected", "db01": "never exported"}


def test_exports_of_another_vcenter_protect_no_vm_of_this_one(vcenter: Simulator, tmp_path: Path) -> None:
    hyperexport.export("db01", output=tmp_path)
    with Simulator(SPECS) as other, pytest.MonkeyPatch.context() as environment:
        for name, value in other.environment().items():
            environment.setenv(name, value)
        assert set(states(covered(tmp_path)).values()) == {"never exported"}


def test_a_vm_whose_only_export_is_damaged_has_no_good_export(vcenter: Simulator, tmp_path: Path) -> None:
    hyperexport.export("db01", output=tmp_path)
    store = LocalStore(tmp_path)
    (export,) = store.exports()
    disk = next(tmp_path.rglob("*.vmdk"))
    disk.write_bytes(disk.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationFailed):
        hyperexport.verify_exports(export.export_id, output=tmp_path)
    found = covered(tmp_path)
    assert states(found)["db01"] == "no good export"
    assert len(found.without) == 3


def test_without_a_store_that_can_be_read_nothing_is_said_of_a_vm(vcenter: Simulator, tmp_path: Path) -> None:
    no_folder = tmp_path / "exports"
    no_folder.write_text("a file")
    found = report(DirectRunner(), ExportOptions.from_keys({"output": no_folder}), inventory=True)
    assert isinstance(found.error, StoreUnusable)
    assert found.coverage
    assert all(state.startswith("unknown") for state in states(found.coverage).values())


def test_a_vcenter_that_is_away_hides_nothing_of_the_stores(
    vcenter: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperexport.export("db01", output=tmp_path)
    monkeypatch.setenv("GOVC_URL", "https://127.0.0.1:1/sdk")
    found = report(DirectRunner(), ExportOptions.from_keys({"output": tmp_path}), inventory=True)
    assert [vm.name for vm in found.surveys[0].vms] == ["db01"]
    assert found.coverage is None
    assert isinstance(found.error, ServerUnreachable)


def test_the_command_shows_it_on_every_face(
    vcenter: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hyperexport.export("db01", output=tmp_path)
    asked = ["report", "--output", str(tmp_path), "--inventory", "--no-prefect"]
    page = tmp_path / "report.html"
    capsys.readouterr()
    assert run([*asked, "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "2 were never exported" in shown
    assert "never exported" in page.read_text()
    assert "/web01" in page.read_text()
    assert run([*asked, "--quiet"]) == 0
    assert "without_good_export=2" in capsys.readouterr().out
    assert run([*asked, "--json"]) == 0
    (inventory,) = json.loads(capsys.readouterr().out)["inventory"]
    assert {vm["name"]: vm["state"] for vm in inventory["vms"]} == {
        "app01": "never exported",
        "db01": "protected",
        "web01": "never exported",
    }
    assert [vm["age_seconds"] is None for vm in inventory["vms"]] == [True, False, True]
