"""Snapshots before, during and after an export: what dead runs left goes, what a user or a live run holds stays."""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

import hyperexport
from hyperexport import errors
from hyperexport.flows import export_vm, reap_snapshots
from hyperexport.model.progress import Progress, Stage, subscribed
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.snapshots import SnapshotState
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from tests.flows.support import exports_in, leftovers

MIB = 1 << 20


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, **keys})


def names(simulator: Simulator, vm: str = "db01") -> list[str]:
    return [name for _, name, _, _ in simulator.vm(vm).snapshots()]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A vCenter that soon gives up the lease of a client that died."""
    vms = (VmSpec("db01", disks=(DiskSpec(64 * MIB, used=1.0),)), VmSpec("web01", disks=(DiskSpec(4 * MIB),)))
    with Simulator(vms, lease_timeout=6.0) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def running(impatient: Simulator, store: Path) -> Generator[subprocess.Popen[bytes]]:
    """A run of db01 in a process of its own, in the middle of its transfer."""
    words = ["--vm", "db01", "--snapshot", "--bandwidth-limit=1", "--quiet", "--output", str(store)]
    api = {"PREFECT_API_URL": str(get_current_settings().api.url)}
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperexport.cli.main", *words],
        env={**os.environ, **api},
        stdout=subprocess.DEVNULL,
        stderr=(store.parent / "stderr").open("wb"),
    )
    try:
        end = time.monotonic() + 120
        while not (impatient.leases() and list(store.rglob("*.partial/*.vmdk"))):
            assert process.poll() is None, (store.parent / "stderr").read_text()
            assert time.monotonic() < end, "it never came to transfer"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def left_in(simulator: Simulator, store: Path) -> list[str]:
    """What is left, but for the dead client's session, which only the server can end."""
    return [thing for thing in leftovers(simulator, store) if not thing.startswith("session")]


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


# -- what a killed run leaves ------------------------------------------------------------------------------------------


def test_the_next_run_of_the_vm_removes_what_a_killed_run_left(running, impatient, store) -> None:
    (left,) = names(impatient)
    kill(running)
    assert names(impatient) == [left]

    result = export_vm("db01", options(store, snapshot=True))

    assert [snapshot.name for snapshot in result.snapshots.abandoned] == [left]
    assert any(left in warning for warning in result.warnings)
    assert len(exports_in(store)) == 1
    assert left_in(impatient, store) == []


def test_the_reaper_leaves_a_live_run_alone_and_removes_what_it_left_when_killed(running, impatient, store) -> None:
    impatient.vm("web01").take_snapshot("before the upgrade", "by hand")
    impatient.vm("db01").take_snapshot("a user's, above ours")
    ours = names(impatient)[0]

    alive = reap_snapshots(options=options(store))
    assert [(item.found.state, item.action) for item in alive.snapshots] == [(SnapshotState.IN_DOUBT, "left alone")]
    assert alive.stagings == ()
    assert ours in names(impatient)

    kill(running)
    planned = reap_snapshots(dry_run=True, options=options(store))
    assert [item.action for item in planned.snapshots] == ["would be removed"]
    assert len(planned.stagings) == 1
    assert ours in names(impatient)

    done = reap_snapshots(options=options(store))
    assert [(item.found.snapshot.name, item.action) for item in done.snapshots] == [(ours, "removed")]
    assert done.stagings == planned.stagings
    assert names(impatient) == ["a user's, above ours"]
    assert names(impatient, "web01") == ["before the upgrade"]
    assert left_in(impatient, store) == []
    assert reap_snapshots(options=options(store)).snapshots == ()


def test_a_snapshot_that_was_kept_on_purpose_is_reported_and_stays(vcenter: Simulator, store: Path) -> None:
    hyperexport.export("db01", options(store, snapshot=True, keep_snapshots=3))
    kept = names(vcenter)
    result = reap_snapshots(options=options(store))
    assert [item.found.state for item in result.snapshots] == [SnapshotState.KEPT]
    assert names(vcenter) == kept


# -- planned, then done ------------------------------------------------------------------------------------------------


def test_a_dry_run_names_the_snapshots_that_the_real_run_then_removes(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").take_snapshot("a user's")
    for number in (1, 2):
        hyperexport.export("db01", options(store, snapshot=True, keep_snapshots=2, snapshot_name=f"ours {number}"))
    third = {"snapshot": True, "keep_snapshots": 2, "snapshot_name": "ours 3"}

    planned = hyperexport.export("db01", options(store, **third, dry_run=True)).snapshots
    assert [snapshot.name for snapshot in planned.removed] == ["ours 1"]
    assert [snapshot.name for snapshot in planned.kept] == ["a user's", "ours 2"]
    assert (planned.make, planned.keeps_made) == ("ours 3", True)
    assert names(vcenter) == ["a user's", "ours 1", "ours 2"]

    assert hyperexport.export("db01", options(store, **third)).snapshots == planned
    assert names(vcenter) == ["a user's", "ours 2", "ours 3"]


def test_consolidating_a_vm_that_is_off_needs_no_snapshot_and_lists_what_goes(vcenter: Simulator, store: Path) -> None:
    vm = vcenter.vm("db01")
    vm.take_snapshot("a user's")
    vm.power_off()
    vm.consolidation_needed = True

    planned = hyperexport.export("db01", options(store, consolidate_snapshots=True, dry_run=True)).snapshots
    assert [snapshot.name for snapshot in planned.removed] == ["a user's"]
    assert names(vcenter) == ["a user's"]

    result = hyperexport.export("db01", options(store, consolidate_snapshots=True))
    assert result.snapshots == planned
    assert names(vcenter) == []
    assert not vm.consolidation_needed


def test_a_snapshot_made_during_the_export_was_not_listed_and_survives_consolidation(vcenter, store) -> None:
    vcenter.vm("db01").take_snapshot("listed")
    seen: list[bool] = []

    def on_progress(progress: Progress) -> None:
        if progress.stage is Stage.TRANSFER and not seen:
            seen.append(True)
            vcenter.vm("db01").take_snapshot("new")

    with subscribed(on_progress):
        result = hyperexport.export("db01", options(store, snapshot=True, consolidate_snapshots=True))
    assert names(vcenter) == ["new"]
    assert any("new was made during the export" in warning for warning in result.warnings)


def test_disks_that_need_consolidation_are_warned_about(vcenter: Simulator, store: Path) -> None:
    vcenter.vm("db01").consolidation_needed = True
    result = hyperexport.export("db01", options(store, snapshot=True))
    assert sum("need consolidation" in warning for warning in result.warnings) == 1
    assert vcenter.vm("db01").consolidation_needed


def test_a_chain_near_vspheres_limit_is_refused_with_nothing_begun(vcenter: Simulator, store: Path) -> None:
    for number in range(30):
        vcenter.vm("db01").take_snapshot(f"user {number}")
    with pytest.raises(errors.SnapshotChainTooLong, match="30 long"):
        hyperexport.export("db01", options(store, snapshot=True))
    assert len(names(vcenter)) == 30
    assert exports_in(store) == []


def test_a_datastore_too_small_for_a_growing_snapshot_is_warned_about(store: Path, monkeypatch) -> None:
    with Simulator([VmSpec("huge", disks=(DiskSpec(32 << 40, used=0.0),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        result = hyperexport.export("huge", options(store, snapshot=True, dry_run=True))
    assert any("datastore1" in warning and "a snapshot may fill it" in warning for warning in result.warnings)


def test_a_removal_that_takes_long_shows_how_far_it_is(vcenter: Simulator, store: Path) -> None:
    vcenter.faults.add(Fault(FaultKind.SLOW_CONSOLIDATION, delay=1.5))
    seen: list[int] = []

    def on_progress(progress: Progress) -> None:
        if progress.stage is Stage.REMOVE_SNAPSHOT:
            seen.append(progress.position)

    with subscribed(on_progress):
        hyperexport.export("db01", options(store, snapshot=True))
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert names(vcenter) == []
