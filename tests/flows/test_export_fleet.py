"""A fleet exports several VMs at once, within its limits; one stop ends all of them.

What becomes of them in Prefect is a flow; the others call the same job directly.
"""

import re
import signal
import threading
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.flows import export_fleet
from hyperexport.jobs import fleet as job
from hyperexport.jobs.direct import DirectRunner
from hyperexport.model.progress import Progress, Stage, subscribed
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import Selection
from hyperexport.results import FleetOutcome, FleetResult
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.store.local import LocalStore
from hyperexport.views.fleet import redo_command
from tests.flows.smtp_server import smtp_server, text_of
from tests.flows.support import exported_bytes, exports_in, guest_bytes, leftovers

MIB = 1 << 20
WEB = ["web01", "web02", "web03"]
NAMES = ["db01", "db02", *WEB, "zoo"]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A simulated vCenter with six running VMs, five of them in a folder."""
    specs = [VmSpec(name, folder="" if name == "zoo" else "production", disks=(DiskSpec(MIB),)) for name in NAMES]
    with Simulator(specs) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "snapshot": True, **keys})


def export_directly(selection: Selection, options: ExportOptions) -> FleetResult:
    """Run the job of a fleet without Prefect, as the command line does."""
    run = DirectRunner()
    in_force = resolve(options).options
    redo = partial(redo_command, options=options)
    return job.export_fleet(run, selection, in_force, export_one=job.directly(run), redo=redo)


def names_in(store: Path) -> list[str]:
    return sorted(export.manifest.vm.name for export in exports_in(store))


def test_one_vm_that_fails_does_not_harm_the_others_and_alone_is_done_again(fleet: Simulator, store: Path) -> None:
    fleet.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=0, vm="web02"))
    with pytest.raises(errors.PartialFleetFailure) as failed:
        export_fleet(Selection(match=("web*",)), options(store, quiesce_required=True))

    result = failed.value.fleet
    assert isinstance(result, FleetResult)
    assert [member.vm.name for member in result.members] == WEB
    assert [member.vm.name for member in result.failed] == ["web02"]
    assert result.failed[0].code == "quiesce-failed"
    assert names_in(store) == [name for name in WEB if name != "web02"]
    assert result.redo is not None
    assert result.redo in str(failed.value)
    assert "--vm /DC0/vm/production/web02" in result.redo
    for export in exports_in(store):
        assert exported_bytes(LocalStore(store), export) == guest_bytes(fleet, export.manifest.vm.name)
    assert leftovers(fleet, store) == []

    again = export_fleet(Selection(match=("web*",)), options(store, skip_newer_than="1h"))
    assert [member.vm.name for member in again.members if member.outcome is FleetOutcome.EXPORTED] == ["web02"]
    assert names_in(store) == WEB


def test_no_more_vms_are_in_flight_than_their_datastore_may_bear(fleet: Simulator, store: Path) -> None:
    at_once: set[int] = set()

    def hold_the_first_until_there_is_a_second(progress: Progress) -> None:
        if progress.stage is Stage.TRANSFER:
            end = time.monotonic() + 150
            while not at_once and len(fleet.leases()) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            at_once.add(len(fleet.leases()))

    with subscribed(hold_the_first_until_there_is_a_second):
        export_directly(Selection(folder=("/DC0/vm/production",)), options(store, max_vms=5, max_per_datastore=2))
    assert names_in(store) == NAMES[:5]
    assert max(at_once) == 2


def test_a_fleet_that_is_stopped_stops_all_its_exports_and_leaves_nothing(fleet: Simulator, store: Path) -> None:
    def stop_at_the_first_byte(progress: Progress) -> None:
        if progress.stage is Stage.TRANSFER and progress.moved:
            begun.set()

    begun = threading.Event()
    main = threading.get_ident()

    def interrupt() -> None:
        assert begun.wait(150)
        signal.pthread_kill(main, signal.SIGINT)

    fleet.faults.add(Fault(FaultKind.STALL, at_byte=300 << 10, times=0))
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with subscribed(stop_at_the_first_byte), pytest.raises(KeyboardInterrupt):
        export_fleet(Selection(match=("*0*",)), options(store, max_vms=2))
    watcher.join()
    assert leftovers(fleet, store) == []
    assert exports_in(store) == []
    assert fleet.requests["CreateSnapshot_Task"] <= 2, "nobody begins any more"


def test_a_dry_run_plans_every_vm_and_the_cleanup_after_all_of_them(fleet: Simulator, store: Path) -> None:
    for name in ("web01", "web02", "web03"):
        hyperexport.export(name, options(store))
    keys = {"cleanup": True, "cleanup_max_count": 1}
    planned = export_directly(Selection(match=("web*",)), options(store, dry_run=True, **keys))
    assert [member.outcome for member in planned.members] == [FleetOutcome.PLANNED] * 3
    assert all(member.result.plan.disks for member in planned.members)

    done = export_directly(Selection(match=("web*",)), options(store, **keys))
    would_go = {str(item) for item in planned.cleanups[0].plan.to_delete}
    assert set(done.cleanups[0].deleted) == would_go
    assert len(would_go) == 3
    assert len(exports_in(store)) == 3


def test_one_mail_tells_of_the_whole_fleet(fleet: Simulator, store: Path, tmp_path: Path) -> None:
    with smtp_server(tmp_path) as postbox:
        mail = {"email_notify": True, "email_smtp_host": "127.0.0.1", "email_smtp_port": postbox.port}
        mail |= {"email_tls": "none", "email_from": "export@example.com", "email_to": "admin@example.com"}
        fleet.faults.add(Fault(FaultKind.CREATE_SNAPSHOT_FAILED, times=0, vm="web02"))
        with pytest.raises(errors.PartialFleetFailure):
            export_directly(Selection(match=("web*",)), options(store, **mail))
    told = text_of(postbox.only())
    for name, outcome in {"web01": "exported", "web02": "FAILED", "web03": "exported"}.items():
        assert re.search(rf"{name}\b.*{outcome}", told, re.IGNORECASE), told


def test_all_vms_failing_is_another_error_than_some(fleet: Simulator, store: Path) -> None:
    with pytest.raises(errors.FleetFailure) as failed:
        export_directly(Selection(vm=("zoo",)), options(store, snapshot=False))
    assert type(failed.value) is errors.FleetFailure
    assert failed.value.exit_code == 1


def test_nobody_chosen_says_what_was_looked_for(fleet: Simulator, store: Path) -> None:
    with pytest.raises(errors.VmNotFound, match=r"--folder /DC0/vm/production --match 'zoo\*'"):
        export_directly(Selection(folder=("/DC0/vm/production",), match=("zoo*",)), options(store))
    with pytest.raises(errors.UsageError):
        export_fleet(Selection(), options(store))


def test_the_bandwidth_is_that_of_the_whole_fleet(fleet: Simulator, store: Path) -> None:
    result = export_directly(Selection(match=("web*",)), options(store, bandwidth_limit=0.4, bandwidth_burst=0.04))
    moved = sum(member.moved or 0 for member in result.members)
    assert moved / result.seconds <= 0.4 * MIB
