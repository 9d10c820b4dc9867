"""Nothing is trusted unproven: change tracking, a transport, or the chain that a delta builds on."""

from pathlib import Path
from typing import Any

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import ServerFault
from hyperexport.formats.vmdk import GRAIN
from hyperexport.jobs.direct import DirectRunner
from hyperexport.model.manifest import ExportKind
from hyperexport.model.transport import Transport
from hyperexport.options.groups import VerifyMode
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.steps import deltas
from hyperexport.steps.verification import verify
from hyperexport.transfer import ranges
from tests.chains import Place, files_of, folder_place, guest, rot, stored
from tests.engine.nbdkit_tool import Nbdkit
from tests.engine.ranges import MIB, OFF, ON, SIZE, change, disk_of, is_the_guests


def distrusted(vcenter: Simulator, place: Place, name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Export, and check that the disk was read whole and that the manifest and an event say so."""
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


def test_what_was_found_wrong_is_not_used_when_the_transfer_is_tried_again(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_WRONG, vm=OFF, after=2))  # found by the first block that is compared
    vcenter.faults.add(Fault(FaultKind.CUT, vm=OFF, disk=0, at_byte=70_000))
    distrusted(vcenter, place, OFF, monkeypatch)
    assert len(vcenter.faults.fired) == 2


def test_a_transport_that_works_again_when_the_lease_failed_is_not_said_to_have_failed(
    vcenter: Simulator, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "_FIRST_PAUSE", 0)
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_SHORT, vm=OFF, at_byte=30 * GRAIN, times=ranges.ATTEMPTS))
    vcenter.faults.add(Fault(FaultKind.CUT, vm=OFF, disk=0, at_byte=70_000))
    result = place.export(OFF)
    assert len(vcenter.faults.fired) == ranges.ATTEMPTS + 1
    assert (disk_of(result).transport, result.manifest.warnings) == (Transport.DATASTORE, ())
    is_the_guests(vcenter, place, OFF, tmp_path)


def test_an_export_that_fails_afterwards_says_what_was_found_wrong(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_WRONG, vm=OFF, times=0))
    vcenter.faults.add(Fault(FaultKind.HTTP_STATUS, vm=OFF, disk=0, status=404, times=0))
    events: list[str] = []
    monkeypatch.setattr(DirectRunner, "transport_distrusted", lambda *_, disk, **__: events.append(disk))
    with pytest.raises(ServerFault, match="404"):
        place.export(OFF)
    assert events == ["Hard disk 1"]


@pytest.mark.parametrize("lost", ["deleted", "found damaged"])
def test_change_tracking_stays_distrusted_when_the_export_that_found_it_is_damaged(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.faults.add(Fault(FaultKind.FOLDER_WRONG, vm=OFF, times=0))
    with monkeypatch.context() as patch:
        distrusted(vcenter, place, OFF, patch)
    vcenter.faults.clear()
    (file,) = files_of(place.store, place.newest())
    if lost == "deleted":
        file.unlink()
    else:
        rot(file)
        verify(place.store, place.newest(), mode=VerifyMode.ON, stop=StopSignal())
    full = place.export(OFF)
    assert (full.manifest.kind, disk_of(full).distrusted is None) == (ExportKind.FULL, False)
    change(vcenter, OFF, seed="2")
    assert disk_of(place.export(OFF)).transport is Transport.LEASE
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


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


@pytest.mark.parametrize("counts_tags", [True, False], ids=["by the tags of its grains", "by its files' tables"])
@pytest.mark.parametrize("link", [0, 2])
def test_damage_that_is_met_while_the_base_is_read_has_the_disk_transferred_whole(
    vcenter: Simulator, place: Place, link: int, monkeypatch: pytest.MonkeyPatch, counts_tags: bool
) -> None:
    a_chain(vcenter, place)
    if not counts_tags:
        monkeypatch.setattr(deltas, "chain_tags", lambda *_: None)
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
