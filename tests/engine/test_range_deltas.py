"""Deltas of which only the changed blocks are read: the guest's bytes, few of them, and nothing trusted unproven."""

import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.errors import TransportUnavailable, UsageError
from hyperexport.formats.vmdk import GRAIN
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.model.manifest import ExportKind, FileEntry
from hyperexport.model.transport import Transport
from hyperexport.options.groups import VerifyMode
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.policy.incremental import Decision
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.simulator.folder_log import FolderRequest
from hyperexport.steps.verification import verify
from hyperexport.store.local import LocalStore
from tests.chains import Place, differing_by_qemu, files_of, folder_place, guest, rot, stored
from tests.engine.nbdkit_tool import Nbdkit, install
from tests.peers import require_program

MIB = 1 << 20
SIZE = 4 * MIB + 1536
"""The last grain is not a whole one."""

OFF, ON = "off", "on"


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    disks = (DiskSpec(SIZE, used=0.6, seed=5),)
    with Simulator([VmSpec(OFF, powered_on=False, disks=disks), VmSpec(ON, disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return folder_place(tmp_path / "exports")


@pytest.fixture
def nbdkit(tmp_path: Path, vcenter: Simulator, monkeypatch: pytest.MonkeyPatch) -> Nbdkit:
    return install(tmp_path / "nbdkit", vcenter, monkeypatch)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder for temporary files of the test's own; its path is short, as that of a socket has to be."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def change(vcenter: Simulator, name: str, seed: str = "1") -> None:
    """Write at random: parts of grains, runs of grains, zeros over data, data over zeros, the first and last bytes."""
    chance, vm = random.Random(seed), vcenter.vm(name)
    vm.guest_write(0, 0, chance.randbytes(3))
    vm.guest_write(0, SIZE - 700, chance.randbytes(700))
    vm.guest_write(0, 7 * GRAIN, bytes(2 * GRAIN))
    vm.guest_write(0, 30 * GRAIN + 5, chance.randbytes(3 * GRAIN))
    for _ in range(5):
        vm.guest_write(0, chance.randrange(SIZE - 600), chance.randbytes(600))


def disk_of(result: ExportResult) -> FileEntry:
    assert result.manifest
    return result.manifest.disks[0]


def is_the_guests(vcenter: Simulator, place: Place, name: str, scratch: Path) -> None:
    newest, contents = place.newest(), guest(vcenter, name)
    assert stored(place.store, newest) == contents
    assert isinstance(place.store, LocalStore)
    assert differing_by_qemu(place.store, newest, contents, scratch) == []


def snapshots_asked_for(vcenter: Simulator) -> int:
    return sum(count for method, count in vcenter.requests.items() if method.startswith("CreateSnapshot"))


def no_export_began(vcenter: Simulator, name: str, place: Place, exports: int) -> None:
    assert vcenter.vm(name).snapshots() == []
    assert len(place.store.exports()) == exports
    assert vcenter.leases() == []


# -- the guest's bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "transport"),
    [
        (OFF, {}, Transport.DATASTORE),
        (OFF, {"transport": "datastore"}, Transport.DATASTORE),
        (ON, {"transport": "datastore"}, Transport.DATASTORE),
        (ON, {"nbdkit_plugin": "vddk"}, Transport.NBDKIT),
        (ON, {"nbdkit_plugin": "nfc"}, Transport.NBDKIT),
        (OFF, {"transport": "nbdkit"}, Transport.NBDKIT),
        (OFF, {"transport": "lease"}, Transport.LEASE),
    ],
)
def test_a_delta_by_any_transport_is_the_guests_disk(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, tmp_path: Path, name: str, options: Any, transport: Transport
) -> None:
    require_program("qemu-img", "nothing else reads the chains")
    vcenter.folder.serves_frozen = True
    place.export(name)
    for day in range(2):
        change(vcenter, name, seed=str(day))
        result = place.export(name, **options)
        entry = disk_of(result)
        assert (entry.transport, len(entry.chain), result.manifest.warnings) == (transport, day + 1, ())
        assert result.plan.disks[0].decision is Decision.TRANSFER
        assert f"read by {transport}" in result.plan.disks[0].why
        is_the_guests(vcenter, place, name, tmp_path)
        if transport is not Transport.LEASE:
            assert entry.sampled
            assert entry.received == result.manifest.transfer.bytes_transferred - nvram_of(result)
            assert entry.received < SIZE
    assert vcenter.vm(name).snapshots() == []
    assert nbdkit.alive == []


def nvram_of(result: ExportResult) -> int:
    assert result.manifest
    return sum(entry.size for entry in result.manifest.files if entry.role == "nvram" and entry.transferred)


def test_bytes_moved_are_at_most_a_tenth_more_than_bytes_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, changed = 64 * MIB, 320
    with Simulator([VmSpec(OFF, powered_on=False, disks=(DiskSpec(size, used=0.9, seed=3),))]) as vcenter:
        for name, value in vcenter.environment().items():
            monkeypatch.setenv(name, value)
        place = folder_place(tmp_path / "exports")
        place.export(OFF)
        chance = random.Random("scattered")
        for number in chance.sample(range(size // GRAIN), changed):
            vcenter.vm(OFF).guest_write(0, number * GRAIN + chance.randrange(GRAIN - 9), chance.randbytes(9))
        vcenter.folder.requests.clear()
        result = place.export(OFF)
        assert disk_of(result).transport is Transport.DATASTORE
        assert stored(place.store, place.newest()) == guest(vcenter, OFF)
        moved = sum(each.sent for each in vcenter.folder.requests)
    assert changed * GRAIN <= moved <= 1.1 * changed * GRAIN


def test_a_changed_disk_that_has_the_same_bytes_again_needs_no_delta(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    empty = next(n for n in range(SIZE // GRAIN) if not any(vcenter.vm(OFF).read_disk(0, n * GRAIN, GRAIN)))
    vcenter.vm(OFF).guest_write(0, empty * GRAIN, bytes(GRAIN))
    result = place.export(OFF)
    assert (disk_of(result).chain, disk_of(result).transport) == ((), Transport.DATASTORE)
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


def test_a_vm_that_is_off_is_held_by_a_lease_while_its_changes_are_read(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    leases: list[int] = []

    class Noting(list[FolderRequest]):
        def append(self, request: FolderRequest, /) -> None:
            leases.append(len(vcenter.leases()))
            super().append(request)

    vcenter.folder.requests = Noting()
    assert disk_of(place.export(OFF)).transport is Transport.DATASTORE
    planned = 2  # the descriptor, and the first bytes of the flat file
    assert leases[:planned] == [0] * planned
    assert set(leases[planned:]) == {1}


def test_a_lease_that_ends_while_changes_are_read_ends_the_reading_and_the_disk_is_read_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = (DiskSpec(SIZE, used=0.6, seed=5),)
    with Simulator([VmSpec(OFF, powered_on=False, disks=disks)], lease_timeout=8.0) as vcenter:
        for name, value in vcenter.environment().items():
            monkeypatch.setenv(name, value)
        place.export(OFF)
        change(vcenter, OFF)
        ended, held = threading.Event(), list[int]()

        class Holding(list[FolderRequest]):
            """Answers nothing that is read under the first lease, which ends now."""

            def append(self, request: FolderRequest, /) -> None:
                super().append(request)
                if not ended.is_set() and vcenter.leases() and request.sent >= GRAIN:
                    if not held:
                        lost = Fault(FaultKind.METHOD_FAULT, method="HttpNfcLeaseProgress", fault="InvalidState")
                        vcenter.faults.add(lost)
                    held.append(request.begin)
                    ended.wait()

        vcenter.folder.requests = Holding()

        def release(record: logging.LogRecord) -> bool:
            if "trying again" in record.msg:
                ended.set()
            return True

        logger = logging.getLogger("hyperexport.base.retry")
        logger.addFilter(release)
        try:
            result = place.export(OFF)
        finally:
            ended.set()
            logger.removeFilter(release)
        assert held
        assert (disk_of(result).transport, len(disk_of(result).chain)) == (Transport.DATASTORE, 1)
        assert stored(place.store, place.newest()) == guest(vcenter, OFF)


# -- what is not trusted ----------------------------------------------------------------------------------------------


def distrusted(vcenter: Simulator, place: Place, name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Export, and prove that the disk was read whole, and that everybody is told."""
    events: list[dict[str, Any]] = []

    def note(_: object, vm: object, **payload: Any) -> None:
        events.append(payload)

    monkeypatch.setattr(DirectRunner, "transport_distrusted", note)
    result = place.export(name, **options)
    entry = disk_of(result)
    assert (entry.transport, entry.chain) == (Transport.LEASE, ())
    assert entry.distrusted == (entry.change_id or "").rpartition("/")[0]
    assert any("is exported whole, because the block at byte" in warning for warning in result.manifest.warnings)
    assert [each["disk"] for each in events] == ["Hard disk 1"]
    assert "which change tracking calls unchanged" in events[0]["reason"]
    assert stored(place.store, place.newest()) == guest(vcenter, name)
    assert [each.role for each in result.manifest.files].count("base") == 0


@pytest.mark.sample("458752")
@pytest.mark.parametrize("lost", [30 * GRAIN, 7 * GRAIN, SIZE - 4])
def test_a_change_that_change_tracking_lost_is_found_by_the_sample(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.vm(OFF).guest_write(0, lost, b"lost")
    vcenter.faults.add(Fault(FaultKind.CBT_OMITS, vm=OFF, at_byte=lost, times=0))
    with monkeypatch.context() as patch:
        distrusted(vcenter, place, OFF, patch, transport_sample=100)
    vcenter.faults.clear()
    change(vcenter, OFF, seed="2")
    assert disk_of(place.export(OFF)).transport is Transport.LEASE  # until tracking begins anew
    vcenter.vm(OFF).reset_change_tracking(0)
    place.export(OFF)
    change(vcenter, OFF, seed="3")
    entry = disk_of(place.export(OFF))
    assert (entry.transport, entry.distrusted) == (Transport.DATASTORE, None)
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


def test_a_datastore_that_returns_wrong_bytes_is_found_before_a_changed_block_is_read(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_WRONG, vm=OFF, times=0))
    vcenter.folder.requests.clear()
    distrusted(vcenter, place, OFF, monkeypatch)
    assert sum(each.sent for each in vcenter.folder.requests if each.sent > 512 * 8) <= 8 * GRAIN


def test_an_nbdkit_that_returns_wrong_bytes_is_found(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.set(wrong=True)
    with monkeypatch.context() as patch:
        distrusted(vcenter, place, ON, patch, nbdkit_plugin="vddk")
    assert nbdkit.alive == []
    assert vcenter.vm(ON).snapshots() == []


def test_without_a_known_block_to_prove_it_by_the_transport_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulator([VmSpec(OFF, powered_on=False, disks=(DiskSpec(8 * MIB, used=0),))]) as vcenter:
        for name, value in vcenter.environment().items():
            monkeypatch.setenv(name, value)
        place = folder_place(tmp_path / "exports")
        place.export(OFF)
        vcenter.vm(OFF).guest_write(0, MIB, b"first")
        entry = disk_of(place.export(OFF))
        assert (entry.transport, len(entry.chain)) == (Transport.LEASE, 0)
        assert stored(place.store, place.newest()) == guest(vcenter, OFF)


# -- what it builds on -------------------------------------------------------------------------------------------------


def a_chain(vcenter: Simulator, place: Place) -> None:
    """Exports of 0, 1 and 2 deltas; and changes since."""
    for seed in ("1", "2", "3"):
        place.export(OFF)
        change(vcenter, OFF, seed)


def starts_anew(vcenter: Simulator, place: Place) -> None:
    """The newest export shares no file with an older one, and is the guest's disk."""
    newest = place.newest()
    assert (newest.manifest.disks[0].chain, newest.manifest.shares_with) == ((), ())
    assert stored(place.store, newest) == guest(vcenter, OFF)
    assert verify(place.store, newest, VerifyMode.DEEP, StopSignal())[1].findings == ()


@pytest.mark.parametrize("link", [0, 2])
def test_damage_that_is_met_while_the_base_is_read_has_the_disk_transferred_whole(
    vcenter: Simulator, place: Place, link: int
) -> None:
    a_chain(vcenter, place)
    rot(files_of(place.store, place.newest())[link])
    result = place.export(OFF, transport_sample=100)  # so that each block of the base is read
    assert any(one.endswith("Record the damage with: hyperexport verify") for one in result.manifest.warnings)
    assert any(
        "is stored whole, not as a delta: base-" in one or "is stored whole, not as a delta: off-" in one
        for one in result.manifest.warnings
    ), result.manifest.warnings
    starts_anew(vcenter, place)


@pytest.mark.parametrize("verified", [0, 2], ids=["newest", "oldest"])
def test_damage_that_a_verification_of_any_export_of_the_chain_found_is_never_built_upon(
    vcenter: Simulator, place: Place, verified: int
) -> None:
    a_chain(vcenter, place)
    base = files_of(place.store, place.newest())[0]
    rot(base, at=base.stat().st_size - 600)  # in a part that no later export reads
    export = place.store.exports()[verified]
    assert verify(place.store, export, VerifyMode.ON, StopSignal())[1].findings
    result = place.export(OFF)
    assert result.plan.kind is ExportKind.FULL
    assert "the base export is damaged: " in result.plan.reason
    assert base.name in result.plan.reason
    starts_anew(vcenter, place)
    change(vcenter, OFF, "4")
    assert place.export(OFF).plan.kind is ExportKind.INCREMENTAL


def test_damage_of_a_file_that_the_newest_export_does_not_have_does_not_concern_it(
    vcenter: Simulator, place: Place
) -> None:
    a_chain(vcenter, place)
    oldest = place.store.exports()[-1]
    rot(Path(place.store.url) / str(oldest) / "off.ovf")
    assert verify(place.store, oldest, VerifyMode.ON, StopSignal())[1].findings
    assert len(disk_of(place.export(OFF)).chain) == 3


# -- what does not work -----------------------------------------------------------------------------------------------


def test_a_host_that_refuses_costs_one_request_and_the_result_says_so(vcenter: Simulator, place: Place) -> None:
    place.export(ON)
    change(vcenter, ON)
    vcenter.folder.requests.clear()
    result = place.export(ON)
    entry = disk_of(result)
    assert (entry.transport, len(entry.chain), result.manifest.warnings) == (Transport.LEASE, 1, ())
    why = result.plan.disks[0].why
    assert "read by lease (datastore: the server answered 500" in why
    assert "nbdkit: --nbdkit-plugin was not given" in why
    assert [each.status for each in vcenter.folder.requests] == [200, 500]


def test_a_dry_run_says_how_a_disk_would_be_read(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    plan = place.export(OFF, dry_run=True).plan
    assert plan.disks[0].transport is Transport.DATASTORE
    assert plan.transfer_bytes == plan.disks[0].changed_bytes
    assert "read by datastore" in plan.disks[0].why


def test_a_transport_that_was_asked_for_and_cannot_work_is_an_error_before_anything_moves(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place.export(ON)
    change(vcenter, ON)
    before = vcenter.most_at_once(), vcenter.requests.get("ExportSnapshot")
    with pytest.raises(TransportUnavailable, match=r"datastore cannot read Hard disk 1 .*500"):
        place.export(ON, transport="datastore")
    no_export_began(vcenter, ON, place, 1)
    snapshots = snapshots_asked_for(vcenter)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransportUnavailable, match="nbdkit is not installed"):
        place.export(ON, transport="nbdkit")
    no_export_began(vcenter, ON, place, 1)
    assert snapshots_asked_for(vcenter) == snapshots > 0
    assert (vcenter.most_at_once(), vcenter.requests.get("ExportSnapshot")) == before


def test_a_range_transport_needs_deltas(place: Place) -> None:
    with pytest.raises(UsageError, match="--transport nbdkit needs --incremental and --max-chain"):
        hyperexport.export(ON, transport="nbdkit", incremental=True, max_chain=0, output=place.options["output"])


def test_an_nbdkit_that_refuses_the_login_says_why(vcenter: Simulator, place: Place, nbdkit: Nbdkit) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.set(password="another")
    with pytest.raises(TransportUnavailable, match="Login failed: wrong user name or password"):
        place.export(ON, transport="nbdkit")
    no_export_began(vcenter, ON, place, 1)
    nbdkit.set(password=vcenter.password, larger=512)
    with pytest.raises(TransportUnavailable, match=f"{SIZE + 512} bytes by nbdkit"):
        place.export(ON, transport="nbdkit")
    assert nbdkit.alive == []


def test_an_nbdkit_that_dies_is_started_again(vcenter: Simulator, place: Place, nbdkit: Nbdkit, tmp_path: Path) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.die(after=4)
    result = place.export(ON, transport="nbdkit")
    assert (disk_of(result).transport, result.manifest.warnings) == (Transport.NBDKIT, ())
    assert len(nbdkit.started) == 3  # planned, killed, and again
    is_the_guests(vcenter, place, ON, tmp_path)
    assert nbdkit.alive == []


def test_an_nbdkit_that_dies_again_and_again_gives_way_to_the_lease(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, tmp_path: Path
) -> None:
    place.export(ON)
    change(vcenter, ON)
    nbdkit.die(after=0, always=True)
    result = place.export(ON, transport="nbdkit")
    assert (disk_of(result).transport, len(disk_of(result).chain)) == (Transport.LEASE, 1)
    assert any("read whole by its lease, not in ranges by nbdkit" in one for one in result.manifest.warnings)
    is_the_guests(vcenter, place, ON, tmp_path)
    assert nbdkit.alive == []
    assert vcenter.vm(ON).snapshots() == []


def test_a_datastore_that_fails_midway_gives_way_to_the_lease(vcenter: Simulator, place: Place, tmp_path: Path) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_WHOLE, vm=OFF, times=0))
    result = place.export(OFF)  # found when the plan is made
    assert disk_of(result).transport is Transport.LEASE
    assert "ignores ranges" in result.plan.disks[0].why
    vcenter.faults.clear()
    change(vcenter, OFF, seed="2")
    vcenter.faults.add(Fault(FaultKind.FOLDER_SHORT, vm=OFF, at_byte=30 * GRAIN, times=0))
    result = place.export(OFF)
    assert disk_of(result).transport is Transport.LEASE
    assert any("not in ranges by datastore" in one for one in result.manifest.warnings)
    is_the_guests(vcenter, place, OFF, tmp_path)


# -- nothing is left --------------------------------------------------------------------------------------------------


def test_the_password_is_nowhere_and_nothing_is_left(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.export(ON)
    change(vcenter, ON)
    with caplog.at_level(logging.DEBUG):
        place.export(ON, transport="nbdkit")
    assert nbdkit.started
    for start in nbdkit.started:
        parameters = start["parameters"]
        assert not any(vcenter.password in text for text in (*start["argv"], *start["environment"]))
        assert parameters["server"] == vcenter.host
        assert parameters["port"] == str(vcenter.port)
        assert parameters["user"] == vcenter.username
        assert parameters["vm"] == f"moref={vcenter.vm(ON).moref}"
        assert parameters["snapshot"].startswith("snapshot-")
        assert parameters["transports"] == "nbdssl:nbd"
        assert len(parameters["thumbprint"]) == 20 * 3 - 1
        assert "--readonly" in start["argv"]
    assert vcenter.password not in caplog.text
    assert nbdkit.alive == []
    assert list(temporary.iterdir()) == []


EXPORT = "import sys, hyperexport; hyperexport.export({vm!r}, output={root!r}, {options})"


def test_an_export_that_is_killed_while_nbdkit_waits_for_a_read_leaves_nothing(
    vcenter: Simulator, place: Place, nbdkit: Nbdkit, temporary: Path, tmp_path: Path
) -> None:
    place.export(ON)
    change(vcenter, ON)
    root = Path(place.store.url)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    hangs = nbdkit.hang(after=4)
    options = "snapshot=True, incremental=True, transport='nbdkit'"
    code = EXPORT.format(vm=ON, root=str(root), options=options)
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(temporary)}) as export:
        while not hangs.exists():
            assert export.poll() is None
            time.sleep(0.01)
        assert (len(nbdkit.alive), len(vcenter.vm(ON).snapshots()), len(place.store.abandoned())) == (1, 1, 1)
        export.kill()
    while nbdkit.alive:  # it is killed; a test that does not go on here has failed
        time.sleep(0.01)
    assert list(temporary.iterdir()) == []
    assert {path: path.read_bytes() for path in before} == before

    nbdkit.set(hangs=None)
    assert reap_snapshots(DirectRunner(), resolve(ExportOptions.from_keys({"output": str(root)})).options).failed == ()
    assert vcenter.vm(ON).snapshots() == []
    assert place.store.abandoned() == []
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    result = place.export(ON, transport="nbdkit")
    assert (disk_of(result).transport, len(disk_of(result).chain), nbdkit.alive) == (Transport.NBDKIT, 1, [])
    is_the_guests(vcenter, place, ON, tmp_path)
