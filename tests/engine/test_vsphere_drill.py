"""Drills in vSphere: a VM that nobody else has anything of is made, watched and destroyed, whatever happens."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.model.drill import DrillPlace, DrillRecord, Sign
from hyperexport.model.manifest import sealed
from hyperexport.options.precedence import resolve
from hyperexport.results import DrillResult
from hyperexport.simulator import DatastoreSpec, DiskSpec, Fault, FaultKind, Simulator, UserSpec, VmSpec
from hyperexport.steps.check_restore import check_vsphere_drill
from hyperexport.vsphere import questions
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import describe_many, find_vm
from hyperexport.vsphere.restore_privileges import ANSWER, RestoreNeeds
from hyperexport.vsphere.session import connect
from tests.engine.restores import export_all
from tests.engine.simulator_client import find, logged_in
from tests.flows.smtp_server import smtp_server, text_of
from tests.peers import require_program

MIB = 1 << 20
DB01 = VmSpec(
    "db01",
    folder="production",
    powered_on=False,
    disks=(DiskSpec(2 * MIB), DiskSpec(MIB, controller="sata", thin=False)),
    networks=("VM Network", "Backup"),
    tags=("backup:daily",),
    custom_attributes=(("owner", "ada"),),
    cpu_reservation=500,
    memory_reservation=256,
)
VMS = (DB01, VmSpec("dead", powered_on=False, disks=(DiskSpec(MIB),)), VmSpec("other", disks=(DiskSpec(MIB),)))


@pytest.fixture(scope="module")
def shared() -> Generator[Simulator]:
    with Simulator(
        VMS,
        datastores=(DatastoreSpec("datastore1"), DatastoreSpec("tiny", 65536)),
        networks=("VM Network", "Backup"),
        pools=("drills",),
        folders=("drills",),
        boot_seconds=0.0,
    ) as simulator:
        simulator.vm("dead").guest_write(0, 0, bytes(512))  # no guest starts from an empty first sector
        yield simulator


@pytest.fixture(scope="module")
def exports(shared: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an export of db01 and one of the VM that does not start."""
    return export_all(shared, tmp_path_factory.mktemp("exports"), "db01", "dead")


@pytest.fixture
def sim(shared: Simulator, exports: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """The simulated vCenter, named by the environment. After each test: every VM as before, and nothing else."""
    for name, value in shared.environment().items():
        monkeypatch.setenv(name, value)
    for record in exports.rglob("drill-*"):
        record.unlink()
    before, stored = look(shared), digests(exports)
    yield shared
    shared.faults.clear()
    assert (shared.leases(), shared.detached_disks(), shared.sessions()) == ([], [], [])
    assert look(shared) == before, "a VM is left, or one that was there before was touched"
    assert digests(exports) == stored, "the store was touched"


@pytest.fixture
def drill(sim: Simulator, exports: Path) -> Callable[..., DrillResult]:
    """Drills db01 in vSphere; the result also of one that fails."""
    del sim

    def run(**given: Any) -> DrillResult:
        try:
            (one,) = hyperexport.restore_drill(**{"vm": "db01", "output": exports, "target": "vsphere", **given})
        except errors.DrillFailed as failed:
            (one,) = failed.drills
        return one

    return run


def look(sim: Simulator) -> list[Any]:
    """What could be noticed of the VMs: their disks, power, place, configuration."""
    with logged_in(sim) as service:
        changes = {vm.name: find(service, vm.name).config.changeVersion for vm in sim.vms()}
    return [(vm.state(), disks_of(sim, vm.name), changes[vm.name]) for vm in sim.vms()]


def disks_of(sim: Simulator, name: str) -> list[str]:
    vm = sim.vm(name)
    sizes = vm.state()["disks"]
    return [hashlib.sha256(vm.read_disk(number, 0, size)).hexdigest() for number, size in enumerate(sizes)]


def digests(store: Path) -> dict[str, str]:
    """What the store holds, beside the records of drills."""
    files = [path for path in store.rglob("*") if path.is_file() and not path.name.startswith("drill-")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# -- what is made, and what is proved ----------------------------------------------------------------------------------


def test_the_vm_of_a_drill_starts_is_pictured_and_destroyed(
    drill: Callable[..., DrillResult], exports: Path, sim: Simulator
) -> None:
    result = drill()
    record = result.record
    assert record is not None
    assert (record.passed, record.sign, record.target) == (True, Sign.HEARTBEAT, "vsphere")
    assert record.platform.startswith("esx-01 of ")
    assert result.problem is result.leaked is result.unrecorded is None
    assert {"restore", "boot"} == record.seconds.keys()
    (path,) = exports.rglob("drill-*.json")
    assert DrillRecord.from_json(path.read_bytes(), export_id=path.parent.name) == record
    assert record.screenshot is not None
    picture = (path.parent / record.screenshot).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert hashlib.sha256(picture).hexdigest() == record.screenshot_sha256
    assert sim.requests.get("Destroy_Task")


def test_its_vm_is_cut_off_takes_nothing_from_others_and_bears_its_owner(
    drill: Callable[..., DrillResult], sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperexport.jobs import drill_targets

    seen: list[Any] = []
    watch = drill_targets.vsphere_drilling.watch_guest

    def looking(job: Any, seconds: float) -> Any:
        with logged_in(sim) as service:
            vm = find(service, job.vm.name)
            attributes = [each.key for each in vm.customValue]
            seen.append((vm.name, vm.config, vm.runtime.powerState, attributes, disks_of(sim, vm.name)))
        return watch(job, seconds)

    looking.hyperexport_step = watch.hyperexport_step  # type: ignore[attr-defined]
    monkeypatch.setattr(drill_targets.vsphere_drilling, "watch_guest", looking)
    assert drill(memory_mib=512).record is not None
    ((name, config, power, attributes, disks),) = seen
    adapters = [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualEthernetCard)]
    assert len(adapters) == 2
    for adapter in adapters:
        plug = adapter.connectable
        assert (plug.startConnected, plug.connected, plug.allowGuestControl) == (False, False, False)
    assert name.startswith("db01-drill-2")
    assert power == "poweredOn"
    assert "hyperexport" in config.annotation
    assert (config.cpuAllocation.reservation, config.memoryAllocation.reservation) == (0, 0)
    assert config.hardware.memoryMB == 512
    assert attributes == []
    assert config.instanceUuid != sim.vm("db01").instance_uuid
    assert disks == disks_of(sim, "db01")


def test_a_guest_that_does_not_start_fails_with_its_picture(drill: Callable[..., DrillResult]) -> None:
    result = drill(vm="dead", timeout=timedelta(seconds=0.2))
    assert result.record is not None
    assert (result.record.passed, result.record.sign) == (False, Sign.NONE)
    assert result.record.reason.startswith("no heartbeat of VMware Tools within")
    assert result.record.screenshot is not None


def test_a_vm_that_asks_a_question_instead_of_starting_is_no_proof_and_is_destroyed(
    drill: Callable[..., DrillResult], sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SECONDS_FOR_AN_ANSWER", 0.0)
    sim.faults.add(Fault(FaultKind.QUESTION))
    result = drill()
    assert ": msg.uuid.altered" in result.words
    assert result.record is None or not result.record.passed
    assert result.leaked is None


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(drill: Callable[..., DrillResult], sim: Simulator) -> None:
    imports = sim.requests.get("ImportVApp", 0)
    result = drill(dry_run=True, place=DrillPlace(folder="drills", resource_pool="drills"))
    assert result.plan is not None
    assert result.plan.folder.endswith("/drills")
    assert result.plan.disconnected
    assert sim.requests.get("ImportVApp", 0) == imports


def test_of_several_one_that_cannot_be_drilled_keeps_none_from_its_turn(
    drill: Callable[..., DrillResult], sim: Simulator, exports: Path
) -> None:
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, method="PowerOnVM_Task", fault="InsufficientMemoryResourcesFault"))
    with pytest.raises(errors.DrillFailed, match="1 of 2") as failed:
        hyperexport.restore_drill(most=2, output=exports, target="vsphere")
    first, second = failed.value.drills
    assert first.problem
    assert second.record is not None


# -- what cannot be done -----------------------------------------------------------------------------------------------


def test_what_has_no_effect_on_the_target_is_refused(exports: Path) -> None:
    for given, flag in (
        ({"target": "vsphere", "expect": "login:"}, "--expect"),
        ({"target": "vsphere", "emulate": True}, "--emulate"),
        ({"target": "qemu", "place": DrillPlace(resource_pool="drills")}, "--resource-pool"),
        ({"target": "moon"}, "target"),
    ):
        with pytest.raises(errors.UsageError, match=flag):
            hyperexport.restore_drill(vm="db01", output=exports, **given)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (DrillPlace(datastore="tiny"), "64.0 KB free"),
        (DrillPlace(datastore="nowhere"), "nowhere"),
        (DrillPlace(folder="nowhere"), "nowhere"),
    ],
)
def test_a_place_that_does_not_do_is_said_before_anything_is_made(
    place: DrillPlace, words: str, drill: Callable[..., DrillResult], sim: Simulator
) -> None:
    imports = sim.requests.get("ImportVApp", 0)
    assert words in (drill(place=place).problem or "")
    assert sim.requests.get("ImportVApp", 0) == imports


def test_a_damaged_export_fails_its_drill_and_leaves_nothing(drill: Callable[..., DrillResult], exports: Path) -> None:
    (disk,) = exports.glob("db01.*/*/*disk-0.vmdk")
    good = disk.read_bytes()
    spoiled = bytearray(good)
    spoiled[len(good) // 2] ^= 1
    disk.write_bytes(spoiled)
    try:
        result = drill()
    finally:
        disk.write_bytes(good)
    assert result.record is not None
    assert not result.record.passed
    assert "the export is damaged" in result.record.reason


@pytest.mark.parametrize("target", ["vsphere", "qemu"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("newer schema", "schema_version"),
        ("incomplete", "export.json is missing"),
        ("noted damage", "disk 0 rotted"),
        ("no disk", "disk-1.vmdk"),
    ],
)
def test_an_export_that_cannot_be_relied_on_is_said_before_anything_is_started(
    spoil: str,
    words: str,
    target: str,
    drill: Callable[..., DrillResult],
    exports: Path,
    sim: Simulator,
    tmp_path: Path,
) -> None:
    require_program("qemu-system-x86_64", "no bad export has been refused")
    shutil.copytree(exports, tmp_path / "store")
    (manifest,) = tmp_path.glob("store/db01.*/*/export.json")
    head = manifest.read_bytes().rpartition(b'"seal": "')[0]
    match spoil:
        case "newer schema":
            manifest.write_bytes(sealed(head.replace(b'"schema_version": ', b'"schema_version": 9')))
        case "incomplete":
            manifest.unlink()
        case "noted damage":
            manifest.write_bytes(sealed(head.replace(b'"damage": []', b'"damage": ["disk 0 rotted"]')))
        case _:
            (disk,) = tmp_path.glob("store/db01.*/*/*disk-1.vmdk")
            disk.unlink()
    imports = sim.requests.get("ImportVApp", 0)
    given: dict[str, Any] = {"vm": None, "export": manifest.parent.name, "output": tmp_path / "store", "target": target}
    given |= {"emulate": True} if target == "qemu" else {}
    if spoil in {"newer schema", "incomplete"}:
        with pytest.raises(errors.ExportNotFound, match=words):
            drill(**given)
    else:
        assert words in drill(**given).words
    assert sim.requests.get("ImportVApp", 0) == imports


# -- faults ------------------------------------------------------------------------------------------------------------

FAULTS = {
    "lease error once": (Fault(FaultKind.LEASE_ERROR), "passed"),
    "lease error for ever": (Fault(FaultKind.LEASE_ERROR, times=0), "problem"),
    "import refused": (
        Fault(FaultKind.METHOD_FAULT, method="ImportVApp", fault="InsufficientResourcesFault"),
        "problem",
    ),
    "upload cut once": (Fault(FaultKind.UPLOAD_CUT, at_byte=50_000), "passed"),
    "upload cut for ever": (Fault(FaultKind.UPLOAD_CUT, at_byte=50_000, times=0), "problem"),
    "lease ends while sending": (Fault(FaultKind.LEASE_EXPIRED, at_byte=50_000), "problem"),
    "datastore full": (Fault(FaultKind.DATASTORE_FULL, at_byte=50_000), "problem"),
    "another file arrives": (Fault(FaultKind.MANIFEST_WRONG, times=0), "problem"),
    "power on fails": (
        Fault(FaultKind.METHOD_FAULT, method="PowerOnVM_Task", fault="InsufficientMemoryResourcesFault"),
        "problem",
    ),
    "no heartbeat": (Fault(FaultKind.NO_HEARTBEAT), "failed"),
    "no screenshot": (
        Fault(FaultKind.METHOD_FAULT, method="CreateScreenshot_Task", fault="InvalidState", times=0),
        "passed",
    ),
    "session ends while it is watched": (Fault(FaultKind.SESSION_EXPIRED, method="CreateScreenshot_Task"), "passed"),
    "another task is in the way of the end": (Fault(FaultKind.TASK_IN_PROGRESS, method="Destroy_Task"), "passed"),
    "destroying fails once": (
        Fault(FaultKind.METHOD_FAULT, method="Destroy_Task", fault="GenericVmConfigFault"),
        "passed",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_survived_or_said_and_leaves_nothing(
    name: str, sim: Simulator, drill: Callable[..., DrillResult]
) -> None:
    fault, expected = FAULTS[name]
    sim.faults.add(fault)
    result = drill(timeout=timedelta(seconds=0.2 if expected == "failed" else 30))
    assert sim.faults.fired
    if expected == "problem":
        assert result.problem
        assert result.record is None
        return
    assert result.record is not None, result
    assert result.record.passed is (expected == "passed")
    assert result.leaked is None
    assert (result.record.screenshot is None) is (name == "no screenshot")
    assert bool(result.record.warnings) is (name == "no screenshot")


def test_a_vm_that_cannot_be_destroyed_fails_the_drill_by_name_and_the_reaper_takes_it(
    sim: Simulator, drill: Callable[..., DrillResult], exports: Path
) -> None:
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, method="Destroy_Task", fault="GenericVmConfigFault", times=0))
    result = drill()
    assert result.record is not None
    assert result.record.passed
    assert result.failed
    assert "db01-drill-" in (result.leaked or "")
    sim.faults.clear()
    reap(exports)


def test_a_drill_that_fails_and_cannot_be_taken_back_names_its_vm(
    sim: Simulator, drill: Callable[..., DrillResult], exports: Path
) -> None:
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, method="PowerOnVM_Task", fault="InvalidState"))
    sim.faults.add(Fault(FaultKind.METHOD_FAULT, method="Destroy_Task", fault="GenericVmConfigFault", times=0))
    result = drill()
    assert "db01-drill-" in (result.problem or "")
    assert "could not be removed" in (result.problem or "")
    sim.faults.clear()
    reap(exports)


def reap(exports: Path) -> None:
    """Have the reaper take what a run left that is over."""
    options = resolve(hyperexport.ExportOptions.from_keys({"output": exports})).options
    (gone,) = reap_snapshots(DirectRunner(), options).vms
    assert "/db01-drill-" in gone


@pytest.mark.sample("sending-*", "watching-*15")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["sending", "watching"])
def test_a_drill_that_is_stopped_leaves_nothing(
    number: signal.Signals, moment: str, sim: Simulator, exports: Path
) -> None:
    if moment == "sending":
        sim.faults.add(Fault(FaultKind.UPLOAD_STALL, disk=0, at_byte=100_000))
    else:
        sim.faults.add(Fault(FaultKind.NO_HEARTBEAT))
    lines = (
        "import os",
        "import hyperexport",
        "from hyperexport.model.progress import subscribed",
        "from hyperexport.vsphere import guest_life",
        "watch = guest_life.watch",
        "def loud(*args, **kwargs):",
        "    for values in watch(*args, **kwargs):",
        "        os.write(1, b'watching\\n')",
        "        yield values",
        "guest_life.watch = loud",
        "told = lambda progress: os.write(1, b'sending\\n') if progress.moved else None",
        "with subscribed(told):",
        f"    hyperexport.restore_drill(vm='db01', target='vsphere', output={str(exports)!r})",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        assert f"{moment}\n" in process.stdout
        process.send_signal(number)
        process.wait(timeout=60)
    assert process.returncode != 0
    assert not list(exports.rglob("drill-*"))


# -- mail --------------------------------------------------------------------------------------------------------------


def test_one_mail_says_what_came_of_all_drills_those_that_failed_first(
    sim: Simulator, exports: Path, tmp_path: Path
) -> None:
    del sim
    with smtp_server(tmp_path) as postbox:
        given: dict[str, Any] = {
            "output": exports,
            "target": "vsphere",
            "email_notify": True,
            "email_on_start": True,
            "email_smtp_host": "127.0.0.1",
            "email_smtp_port": postbox.port,
            "email_tls": "none",
            "email_from": "drills@example.com",
            "email_to": "ada@example.com",
        }
        hyperexport.restore_drill(vm="db01", **given)
        with pytest.raises(errors.DrillFailed):
            hyperexport.restore_drill(most=2, timeout=timedelta(seconds=0.5), **given)
        with pytest.raises(errors.ExportNotFound):
            hyperexport.restore_drill(vm="nobody", **given)
        hyperexport.restore_drill(vm="db01", dry_run=True, **given)
    assert postbox.subjects() == [
        "HyperExport: Restore drill of 1 export started",
        "HyperExport: db01 passed the restore drill",
        "HyperExport: Restore drill of 2 exports started",
        "HyperExport: 1 of 2 exports passed the restore drill, 1 did NOT",
        "HyperExport: Restore drill of nobody FAILED",
    ]
    passed, failed = text_of(postbox.messages[1]), text_of(postbox.messages[3])
    assert "VMware Tools send their heartbeat" in passed
    assert failed.index("/DC0/vm/dead") < failed.index("/DC0/vm/production/db01")
    assert "FAILED: no heartbeat of VMware Tools" in failed


# -- privileges --------------------------------------------------------------------------------------------------------

NEEDED = {each.privilege: each for each in RestoreNeeds(drill=True).requirements}
CASES = (None, *sorted(NEEDED))


@pytest.fixture(scope="module")
def guarded() -> Generator[Simulator]:
    """A vCenter with a user for each case: a role of exactly what the table says, or of that less one privilege."""
    users = tuple(UserSpec(f"all but {lacking}", "a password", privileges=set(NEEDED) - {lacking}) for lacking in CASES)
    with Simulator(VMS, users=users, networks=("VM Network", "Backup"), boot_seconds=0.0) as simulator:
        yield simulator


@pytest.mark.parametrize("lacking", CASES)
def test_a_role_of_exactly_the_table_drills_and_of_less_does_not_begin_or_has_no_picture(
    lacking: str | None, guarded: Simulator, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOVC_USERNAME", f"all but {lacking}")
    monkeypatch.setenv("GOVC_PASSWORD", "a password")
    before = guarded.requests.get("ImportVApp", 0)
    given: dict[str, Any] = {"vm": "db01", "output": exports, "target": "vsphere"}
    with connect(VSphereEndpoint.from_environment()) as session:
        vms = describe_many(session, [find_vm(session, "db01")])
        levels = {finding.level for finding in check_vsphere_drill(session, vms, stop=StopSignal())}
    if lacking is None or not NEEDED[lacking].vital:
        (result,) = hyperexport.restore_drill(**given)
        assert result.record is not None
        assert (result.record.screenshot is None) is (lacking not in {None, ANSWER.privilege})
        assert levels == {"ok" if lacking is None else "warn"}
    else:
        with pytest.raises(errors.DrillFailed, match=lacking):
            hyperexport.restore_drill(**given)
        assert guarded.requests.get("ImportVApp", 0) == before
        assert levels == {"fail"}
    assert [vm.name for vm in guarded.vms()] == [spec.name for spec in VMS]
    for record in exports.rglob("drill-*"):
        record.unlink()


def test_without_the_privilege_to_answer_a_question_the_vm_is_named_and_the_next_run_of_one_who_may_removes_it(
    guarded: Simulator, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment().items():
        monkeypatch.setenv(name, value)
    guarded.faults.add(Fault(FaultKind.QUESTION))
    with monkeypatch.context() as poor:
        poor.setenv("GOVC_USERNAME", f"all but {ANSWER.privilege}")
        poor.setenv("GOVC_PASSWORD", "a password")
        poor.setattr(questions, "SECONDS_FOR_AN_ANSWER", 0.0)
        with pytest.raises(errors.DrillFailed) as failed:
            hyperexport.restore_drill(vm="db01", output=exports, target="vsphere")
    (result,) = failed.value.drills
    assert "waits for an answer" in result.words
    assert "db01-drill-" in result.words.partition("could not be removed")[0]
    reap(exports)
    assert [vm.name for vm in guarded.vms()] == [spec.name for spec in VMS]
