"""``--keep-snapshots N`` holds on every way out, and what is kept stands in nobody's way."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

import hyperexport
from hyperexport.base import retry as with_retries
from hyperexport.errors import HyperExportError, SnapshotChainTooLong, VmHeld
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.model.ownership import Owner
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy import snapshots as snapshot_policy
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps import verification
from hyperexport.vsphere import snapshots as vsphere_snapshots

MIB = 1 << 20

EXPORT = """
import json, sys
import hyperexport
hyperexport.export("db01", snapshot=True, **json.loads(sys.argv[1]))
print("exported", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    monkeypatch.setattr(with_retries, "RETRY_DELAYS", (0.0,))
    with Simulator((VmSpec("db01", disks=(DiskSpec(MIB),)),)) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "exports"


def names(vcenter: Simulator) -> list[str]:
    return [name for _, name, _, _ in vcenter.vm("db01").snapshots()]


def export(store: Path, name: str, **options: object) -> ExportResult:
    return hyperexport.export("db01", **{"snapshot": True, "output": store, "snapshot_name": name, **options})


def elsewhere(vcenter: Simulator, name: str, *, run: str, keep: bool = True) -> None:
    """A snapshot that a run on another machine made, of which nothing can be known here."""
    uuid = vcenter.vm("db01").instance_uuid
    owner = Owner.of_this_process(run=run, vcenter="vc", vm=uuid, keep=keep)
    owner = owner.model_copy(update={"machine": "0" * 32, "host": "elsewhere", "thing": name})
    vcenter.vm("db01").take_snapshot(name, owner.to_description())


def test_runs_that_fail_pile_up_no_snapshots(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").take_snapshot("a user's")
    for number in range(3):
        export(store, f"good {number}", keep_snapshots=2)
    assert names(vcenter) == ["a user's", "good 1", "good 2"]
    fault = Fault(FaultKind.HTTP_STATUS, status=404, times=0)
    vcenter.faults.add(fault)
    for number in range(5):  # each leaves the chain as long as it was: so would any number of them
        with pytest.raises(HyperExportError) as caught:
            export(store, f"bad {number}", keep_snapshots=2)
        assert not isinstance(caught.value, SnapshotChainTooLong)
        assert len(names(vcenter)) == 3
    vcenter.faults.clear()
    export(store, "good again", keep_snapshots=2)
    assert names(vcenter) == ["a user's", "bad 4", "good again"]


@pytest.mark.parametrize("step", ["plan_export", "publish_export", "describe_vm", "verify_export", "cancelled"])
def test_retention_holds_wherever_the_run_fails(
    vcenter: Simulator, store: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperexport.steps import disk_export, package, plan

    def fail(*_: object, **__: object) -> None:
        if step == "cancelled":
            raise KeyboardInterrupt
        raise HyperExportError("it fails here", fix="Nothing")

    for number in range(2):
        export(store, f"good {number}", keep_snapshots=2)
    places = {
        "plan_export": (plan, "make_plan"),
        "publish_export": (package, "publish"),
        "describe_vm": (package, "describe_vm"),
        "verify_export": (verification, "verify"),
        "cancelled": (disk_export, "export_disk"),
    }
    module, name = places[step]
    monkeypatch.setattr(module, name, functools.wraps(getattr(module, name))(fail))
    for number in range(3):
        with pytest.raises((HyperExportError, KeyboardInterrupt)):
            export(store, f"bad {number}", keep_snapshots=2, verify=True)
        assert names(vcenter)[-1] == f"bad {number}"
        assert len(names(vcenter)) == 2


def test_a_chain_that_failing_runs_filled_is_tidied_before_the_next_snapshot(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of six counts as full here; that it is one of thirty is shown with users' snapshots below."""
    for module in (snapshot_policy, vsphere_snapshots):
        monkeypatch.setattr(module, "LONGEST_CHAIN", 6)
    vcenter.vm("db01").take_snapshot("a user's")
    for number in range(5):  # what was piled up before: keep 6, then fewer
        export(store, f"old {number}", keep_snapshots=6)
    with pytest.raises(SnapshotChainTooLong):
        export(store, "new", delete_snapshot=True)
    export(store, "new", keep_snapshots=2)
    assert names(vcenter) == ["a user's", "old 4", "new"]


def test_a_full_chain_of_users_snapshots_is_left_alone(vcenter: Simulator, store: Path) -> None:
    for number in range(30):
        vcenter.vm("db01").take_snapshot(f"user {number}")
    with pytest.raises(SnapshotChainTooLong):
        export(store, "new", keep_snapshots=1)
    assert names(vcenter) == [f"user {number}" for number in range(30)]


def test_a_kept_snapshot_of_an_unknown_run_stays_with_the_command_that_removes_it(
    vcenter: Simulator, store: Path
) -> None:
    elsewhere(vcenter, "theirs", run="run-of-another-machine")
    result = export(store, "mine", keep_snapshots=1)
    assert names(vcenter) == ["theirs", "mine"]
    (warning,) = [one for one in result.warnings if "theirs" in one]
    assert "hyperexport reap-snapshots --reap-run run-of-another-machine" in warning
    vcenter.faults.add(Fault(FaultKind.HTTP_STATUS, status=404, times=0))
    for number in range(3):
        with pytest.raises(HyperExportError):
            export(store, f"bad {number}", keep_snapshots=1)
        assert len(names(vcenter)) == 2


def test_a_run_that_is_not_proved_to_be_over_holds_its_vm_until_the_user_says_that_it_is(
    vcenter: Simulator, store: Path
) -> None:
    elsewhere(vcenter, "theirs", run="far-away", keep=False)
    planned = export(store, "mine", dry_run=True)
    with pytest.raises(VmHeld) as caught:
        export(store, "mine")
    for words in ("run far-away on elsewhere", "unknown whether that run is over"):
        assert words in str(caught.value)
        assert any(words in warning for warning in planned.warnings)
    assert "hyperexport reap-snapshots --reap-run far-away" in caught.value.fix
    assert (names(vcenter), list(store.rglob("export.json"))) == (["theirs"], [])
    reap_snapshots(DirectRunner(), ExportOptions.from_keys({"output": store}), ("far-away",))
    assert names(vcenter) == []
    export(store, "mine")


def test_a_kept_snapshot_whose_export_is_stored_is_done_with_wherever_it_was_made(
    vcenter: Simulator, store: Path
) -> None:
    hostname = ["unshare", "-p", "-f", "--mount-proc"]
    if subprocess.run([*hostname, "true"], check=False, capture_output=True).returncode:
        pytest.skip("Namespaces of one's own are not permitted here.")
    words = {"output": str(store), "keep_snapshots": 1, "snapshot_name": "in a container"}
    with in_a_process(words, before=hostname) as process:
        process.communicate("\n", timeout=120)
    assert names(vcenter) == ["in a container"]
    result = export(store, "mine", keep_snapshots=1)
    assert names(vcenter) == ["mine"]
    assert not [warning for warning in result.warnings if "reap-run" in warning]


def by_a_dead_process(vcenter: Simulator, name: str, **changes: object) -> None:
    """A snapshot that a process of this machine made, which was killed before it could remove it."""
    code = (
        "import json, sys\nfrom hyperexport.model.ownership import Owner\n"
        "values, name = json.loads(sys.argv[1]), sys.argv[2]\n"
        "print(Owner.of_this_process(run='killed', **values).made_for(name).to_description())"
    )
    values = {"vcenter": f"{vcenter.host}:{vcenter.port}", "vcenter_uuid": None, **changes}
    words = [sys.executable, "-c", code, json.dumps(values), name]
    tag = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    vcenter.vm("db01").take_snapshot(name, tag)


@pytest.mark.parametrize("uuid", [None, "", "00000000-0000-0000-0000-000000000000"])
def test_the_snapshots_of_a_vm_without_an_instance_uuid_are_known_by_its_moref(
    vcenter: Simulator, store: Path, uuid: str | None
) -> None:
    vcenter.vm("db01")._machine.settings.instance_uuid = uuid
    made = [export(store, f"kept {number}", keep_snapshots=2) for number in range(3)]
    assert names(vcenter) == ["kept 1", "kept 2"]
    assert made[0].manifest
    moref = made[0].manifest.vm.moref
    by_a_dead_process(vcenter, "left by a killed run", vm=moref)
    by_a_dead_process(vcenter, "of another server's", vm=moref, vcenter_uuid="4f0e7a52-0000-0000-0000-000000000001")
    by_a_dead_process(vcenter, "of another VM's", vm="vm-4711")
    export(store, "new", keep_snapshots=3)
    assert names(vcenter) == ["kept 1", "kept 2", "of another server's", "of another VM's", "new"]
    by_a_dead_process(vcenter, "left again", vm=moref)
    reap_snapshots(DirectRunner(), ExportOptions.from_keys({"output": store}))
    assert names(vcenter) == ["kept 1", "kept 2", "of another server's", "of another VM's", "new"]


def in_a_process(options: dict[str, object], *, before: list[str] | None = None) -> subprocess.Popen[str]:
    words = [*(before or []), sys.executable, "-c", EXPORT, json.dumps(options)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_what_a_notebook_that_still_runs_has_kept_holds_nobody_up(vcenter: Simulator, store: Path) -> None:
    words = {"output": str(store), "keep_snapshots": 2, "snapshot_name": "the notebook's"}
    with in_a_process(words) as notebook:
        assert notebook.stdout
        assert notebook.stdout.readline() == "exported\n"
        export(store, "second", keep_snapshots=2)
        assert names(vcenter) == ["the notebook's", "second"]
        export(store, "third", keep_snapshots=2)
        assert names(vcenter) == ["second", "third"]
        notebook.communicate("\n", timeout=150)


def test_a_run_at_work_on_a_snapshot_to_be_kept_loses_it_to_nobody(
    vcenter: Simulator, store: Path, tmp_path: Path
) -> None:
    words = {"output": str(store), "keep_snapshots": 1, "snapshot_name": "at work", "bandwidth_limit": 0.1}
    with in_a_process(words) as process:
        while not vcenter.leases():
            assert process.poll() is None
        for other in (store, tmp_path / "another store"):
            with pytest.raises(VmHeld):
                export(other, "other", keep_snapshots=1)
        assert names(vcenter) == ["at work"]
        process.communicate("\n", timeout=120)
        assert process.returncode == 0
