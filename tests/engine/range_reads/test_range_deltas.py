"""Deltas of which only the changed blocks are read: the guest's bytes, and few of them."""

import logging
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hyperexport.formats.vmdk import GRAIN
from hyperexport.model.progress import Progress, subscribed
from hyperexport.model.transport import Transport
from hyperexport.policy.export_plan import Decision
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator, VmSpec
from hyperexport.simulator.folder_log import FolderRequest
from hyperexport.steps import deltas
from tests.chains import Place, folder_place, guest, stored
from tests.engine.nbdkit_tool import Nbdkit
from tests.engine.ranges import MIB, OFF, ON, SIZE, change, disk_of, is_the_guests
from tests.peers import require_program


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


@pytest.mark.parametrize("counts_tags", [True, False], ids=["by the tags of its grains", "by its files' tables"])
def test_what_the_base_holds_is_known_in_either_way(
    vcenter: Simulator, place: Place, monkeypatch: pytest.MonkeyPatch, counts_tags: bool
) -> None:
    if not counts_tags:
        monkeypatch.setattr(deltas, "chain_tags", lambda *_: None)
    place.export(OFF)
    read = vcenter.vm(OFF).read_disk
    data = next(number for number in range(SIZE // GRAIN) if any(read(0, number * GRAIN, GRAIN)))
    for day, written in enumerate((b"first", bytes(GRAIN), bytes(GRAIN), b"again")):  # zeros twice, then data
        change(vcenter, OFF, seed=str(day))
        vcenter.vm(OFF).guest_write(0, data * GRAIN, written)
        entry = disk_of(place.export(OFF, transport_sample=100))
        assert (entry.transport, entry.distrusted) == (Transport.DATASTORE, None)
        assert stored(place.store, place.newest()) == guest(vcenter, OFF)
        assert entry.sampled
        grains = [read(0, at, min(GRAIN, SIZE - at)) for at in range(0, SIZE, GRAIN)]
        assert entry.populated == sum(len(grain) for grain in grains if any(grain))


def test_what_is_saved_is_what_a_full_export_would_read_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator([VmSpec(OFF, powered_on=False, disks=(DiskSpec(32 * MIB, used=0.9, seed=3),))]) as vcenter:
        for name, value in vcenter.environment().items():
            monkeypatch.setenv(name, value)
        place = folder_place(tmp_path / "exports")
        first = place.export(OFF)
        whole = disk_of(first).size
        assert (first.saved_bytes, first.plan.saved_bytes) == (0, 0)
        for day, transport in enumerate((Transport.DATASTORE, Transport.LEASE, Transport.DATASTORE)):
            vcenter.vm(OFF).guest_write(0, day * 5 * GRAIN, bytes([day]) * GRAIN)
            vcenter.folder.requests.clear()
            result = place.export(OFF, transport=str(transport))
            ranged = transport is Transport.DATASTORE
            read = sum(each.sent for each in vcenter.folder.requests if each.sent >= GRAIN)
            assert result.saved_bytes == (whole - read if ranged else 0)
            planned = result.plan.disks[0].expected_bytes if ranged else whole
            assert result.plan.saved_bytes == whole - planned
            assert read <= planned <= 1.5 * read if ranged else read == 0
        unchanged = place.export(OFF)
        assert (unchanged.plan.disks[0].decision, len(disk_of(unchanged).chain)) == (Decision.REUSE, 3)
        assert unchanged.saved_bytes == unchanged.plan.saved_bytes == whole


@pytest.mark.parametrize("percent", [0, 3, 100])
def test_a_plan_says_at_most_what_is_read(vcenter: Simulator, place: Place, percent: float) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    result = place.export(OFF, transport_sample=percent)
    read, planned = disk_of(result).received or 0, result.plan.disks[0].expected_bytes
    assert disk_of(result).transport is Transport.DATASTORE
    assert read <= planned <= min(read + 9 * GRAIN, SIZE)  # eight known grains, and the last grain counts as whole


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


def test_what_is_written_between_the_plan_and_the_reading_of_a_vm_that_is_off_is_in_the_delta(
    vcenter: Simulator, place: Place
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    written: list[Progress] = []

    def write_once(progress: Progress) -> None:
        if progress.item.endswith(".nvram") and not written:
            written.append(progress)
            for at in (7 * GRAIN + 100, 20 * GRAIN, SIZE - 100):
                vcenter.vm(OFF).guest_write(0, at, b"after the plan")

    with subscribed(write_once):
        result = place.export(OFF)
    assert written
    assert disk_of(result).transport is Transport.DATASTORE
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)
    change(vcenter, OFF, seed="2")
    assert disk_of(place.export(OFF)).transport is Transport.DATASTORE
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


def test_the_plan_and_the_reading_find_a_disks_file_once(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.folder.requests.clear()
    assert disk_of(place.export(OFF)).transport is Transport.DATASTORE
    assert sum(request.path.endswith("off.vmdk") for request in vcenter.folder.requests) == 1


WAITING = [
    "HttpNfcLeaseGetManifest",
    "HttpNfcLeaseProgress",
    "CreatePropertyCollector",
    "CreateFilter",
    "WaitForUpdatesEx",
    "DestroyPropertyCollector",
    "DestroyPropertyFilter",
]
"""Questions whose number depends on how soon the server has made a lease, a task's end or a checksum."""


def test_an_export_in_ranges_asks_few_questions(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    before = Counter(vcenter.requests)
    assert disk_of(place.export(OFF)).transport is Transport.DATASTORE
    asked = Counter(vcenter.requests) - before
    for waiting in WAITING:
        del asked[waiting]
    assert asked.total() <= 31, asked
    assert asked["RetrievePropertiesEx"] <= 16, asked


def test_a_changed_disk_that_has_the_same_bytes_again_needs_no_delta(vcenter: Simulator, place: Place) -> None:
    place.export(OFF)
    empty = next(n for n in range(SIZE // GRAIN) if not any(vcenter.vm(OFF).read_disk(0, n * GRAIN, GRAIN)))
    vcenter.vm(OFF).guest_write(0, empty * GRAIN, bytes(GRAIN))
    result = place.export(OFF)
    assert (disk_of(result).chain, disk_of(result).transport) == ((), Transport.DATASTORE)
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


def test_a_vm_that_is_off_is_held_by_a_lease_from_the_plan_until_its_changes_are_read(
    vcenter: Simulator, place: Place
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    leases: list[int] = []

    class Noting(list[FolderRequest]):
        def append(self, request: FolderRequest, /) -> None:
            leases.append(len(vcenter.leases()))
            super().append(request)

    vcenter.folder.requests = Noting()
    assert disk_of(place.export(OFF)).transport is Transport.DATASTORE
    assert set(leases) == {1}


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
