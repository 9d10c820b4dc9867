"""The end of a chain: a changed disk is written whole, from the store's own grains and what changed, read in ranges."""

import random
from pathlib import Path
from typing import Any, Final

import pytest

import hyperexport
from hyperexport.base.display import pages_of
from hyperexport.base.stop import StopSignal
from hyperexport.formats.vmdk import GRAIN
from hyperexport.images.opening import open_disks
from hyperexport.model.manifest import FileEntry
from hyperexport.model.transport import Transport
from hyperexport.options.groups import VerifyMode
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Fault, FaultKind, Simulator
from hyperexport.steps.verification import verify
from hyperexport.store.local import LocalStore
from hyperexport.views import exports as export_page
from hyperexport.views import stored as list_page
from tests.chains import Place, differing_by_qemu, files_of, guest, rot, s3_place, stored
from tests.engine.nbdkit_tool import Nbdkit
from tests.engine.ranges import MIB, OFF, ON, SIZE
from tests.engine.s3_servers import S3Server
from tests.peers import require_program

ENDS: Final[dict[str, Any]] = {"max_chain": 1}
"""Each chain has one delta; the export after it is whole again."""


@pytest.fixture
def disks() -> tuple[DiskSpec, ...]:
    """A second disk, of which one grain changes."""
    return (DiskSpec(SIZE, used=0.6, seed=5), DiskSpec(MIB, used=0.5, seed=6))


def change(vcenter: Simulator, name: str, seed: int = 1) -> None:
    """Parts of grains, a run of grains, zeros over data, the first and last bytes; on the second disk one grain."""
    chance, vm = random.Random(seed), vcenter.vm(name)
    vm.guest_write(0, 0, chance.randbytes(3))
    vm.guest_write(0, SIZE - 700, chance.randbytes(700))
    vm.guest_write(0, 7 * GRAIN, bytes(2 * GRAIN))
    vm.guest_write(0, (30 + seed) * GRAIN + 5, chance.randbytes(3 * GRAIN))
    vm.guest_write(1, 3 * GRAIN, chance.randbytes(9))


def disks_of(result: ExportResult) -> tuple[FileEntry, ...]:
    assert result.manifest
    return result.manifest.disks


def at_its_end(vcenter: Simulator, place: Place, name: str = OFF) -> None:
    """An export whose disks have as many deltas as they may, and changes since."""
    for seed in (1, 2):
        place.export(name, **ENDS)
        change(vcenter, name, seed)
    change(vcenter, name, 3)


def is_whole_and_the_guests(vcenter: Simulator, place: Place, name: str, scratch: Path) -> None:
    newest, contents = place.newest(), guest(vcenter, name)
    assert [disk.chain for disk in newest.manifest.disks] == [(), ()]
    assert [entry.role for entry in newest.manifest.files].count("base") == 0
    assert stored(place.store, newest) == contents
    assert verify(place.store, newest, VerifyMode.DEEP, StopSignal())[1].findings == ()
    if isinstance(place.store, LocalStore):
        assert differing_by_qemu(place.store, newest, contents, scratch) == []


@pytest.mark.parametrize(
    ("kind", "name", "options", "transport"),
    [
        ("s3", OFF, {}, Transport.DATASTORE),
        ("folder", ON, {"transport": "datastore"}, Transport.DATASTORE),
        ("folder", ON, {"nbdkit_plugin": "vddk"}, Transport.NBDKIT),
    ],
    ids=["s3, off, datastore", "folder, on, datastore", "folder, on, nbdkit"],
)
def test_at_the_end_of_its_chain_only_what_changed_of_a_disk_is_read_and_the_next_delta_builds_on_it(
    vcenter: Simulator,
    place: Place,
    nbdkit: Nbdkit,
    tmp_path: Path,
    kind: str,
    name: str,
    options: Any,
    transport: Transport,
    request: pytest.FixtureRequest,
) -> None:
    require_program("qemu-img", "nothing else reads the disk")
    if kind == "s3":
        server: S3Server = request.getfixturevalue("server")
        place = s3_place(server, server.make_bucket("synthetic-fulls"))
    vcenter.folder.serves_frozen = True
    at_its_end(vcenter, place, name)

    result = place.export(name, **ENDS, **options)

    assert result.manifest.warnings == ()
    assert [(disk.synthetic, disk.transferred, disk.transport) for disk in disks_of(result)] == [
        (True, True, transport)
    ] * 2
    assert all(disk.sampled and disk.received for disk in disks_of(result))
    assert (disks_of(result)[0].received or 0) < SIZE * 2 // 3  # what changed, and the sample of at least 16 grains
    is_whole_and_the_guests(vcenter, place, name, tmp_path)
    change(vcenter, name, 4)
    following = place.export(name, **ENDS, **options)
    assert [(disk.synthetic, len(disk.chain)) for disk in disks_of(following)] == [(False, 1)] * 2
    assert stored(place.store, place.newest()) == guest(vcenter, name)
    assert nbdkit.alive == []
    assert vcenter.vm(name).snapshots() == []


def test_a_synthetic_full_that_is_asked_for_reads_only_what_changed_on_a_whole_base_too(
    vcenter: Simulator, place: Place, tmp_path: Path
) -> None:
    place.export(OFF)
    change(vcenter, OFF)
    vcenter.folder.requests.clear()
    result = place.export(OFF, synthetic_full=True, transport_sample=0)
    assert [disk.synthetic for disk in disks_of(result)] == [True, True]
    read = sum(each.sent for each in vcenter.folder.requests if "-flat" in each.path)
    probes = 2 * 512  # of each disk when it is planned
    assert read - probes == sum(disk.received or 0 for disk in disks_of(result)) < SIZE * 2 // 3 + MIB
    is_whole_and_the_guests(vcenter, place, OFF, tmp_path)


def test_unchanged_grains_are_stored_as_they_were_and_those_that_became_zero_are_left_out(
    vcenter: Simulator, place: Place
) -> None:
    at_its_end(vcenter, place)
    vcenter.vm(OFF).guest_write(0, 20 * GRAIN, bytes(GRAIN))
    before = place.newest()
    place.export(OFF, **ENDS)
    content = guest(vcenter, OFF)[0]
    stop = StopSignal()
    with (
        open_disks(place.store, before, stop=stop) as old,
        open_disks(place.store, place.newest(), stop=stop) as new,
    ):
        same = 0
        for number in range(-(-SIZE // GRAIN)):
            held = new[0].place(number)
            assert (held is not None) == any(content[number * GRAIN : (number + 1) * GRAIN])
            was = old[0].place(number)
            same += bool(held and was and old[0].compressed(number, was) == new[0].compressed(number, held))
    populated = sum(any(content[at : at + GRAIN]) for at in range(0, SIZE, GRAIN))
    assert same >= populated - 16  # all but what changed


# -- what is said -----------------------------------------------------------------------------------------------------


def test_the_plan_the_result_and_the_list_say_what_a_synthetic_full_is_made_of(
    vcenter: Simulator, place: Place
) -> None:
    at_its_end(vcenter, place)
    plan = place.export(OFF, **ENDS, dry_run=True).plan
    assert "stored whole: its chain has 1 delta, at --max-chain 1" in plan.disks[0].why
    assert "only what changed is read by datastore, and the rest is written from the store's own grains" in (
        plan.disks[0].why
    )
    result = place.export(OFF, **ENDS)
    read = [disk.received or 0 for disk in disks_of(result)]
    for planned, received in zip(plan.disks, read, strict=True):
        assert received <= planned.expected_bytes <= received + 9 * GRAIN
    assert [disk.why for disk in result.plan.disks] == [disk.why for disk in plan.disks]
    _ = export_page, list_page  # their import registers the pages
    (page,) = pages_of(result)
    assert any("only what changed is read by datastore" in cell for row in page.tables[1].rows for cell in row)
    rows = pages_of(hyperexport.list_exports(place.store.url))[0].tables[0].rows
    assert [[words in row for row in rows] for words in ("synthetic full", "incremental + 1 delta", "full")] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


def test_an_unchanged_disk_that_refers_to_a_synthetic_full_is_none_itself(vcenter: Simulator, place: Place) -> None:
    at_its_end(vcenter, place)
    first = place.export(OFF, **ENDS)
    again = place.export(OFF, **ENDS)
    assert [(disk.synthetic, disk.transferred) for disk in disks_of(again)] == [(False, False)] * 2
    assert again.plan.saved_bytes == sum(disk.size for disk in disks_of(first))
    assert again.manifest.kind_in_words == "incremental"


def test_where_the_whole_stream_is_read_anyway_it_is_stored_as_it_comes(vcenter: Simulator, place: Place) -> None:
    at_its_end(vcenter, place)
    result = place.export(OFF, **ENDS, transport="lease")
    assert [(disk.synthetic, disk.transport, disk.chain) for disk in disks_of(result)] == [
        (False, Transport.LEASE, ())
    ] * 2
    assert "store's own grains" not in result.plan.disks[0].why
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


# -- what is not trusted ----------------------------------------------------------------------------------------------


def is_transferred_whole(vcenter: Simulator, place: Place, result: ExportResult, scratch: Path, warning: str) -> None:
    assert next((disk.synthetic, disk.transport) for disk in disks_of(result)) == (False, Transport.LEASE)
    assert any(warning in words for words in result.manifest.warnings), result.manifest.warnings
    is_whole_and_the_guests(vcenter, place, OFF, scratch)


@pytest.mark.parametrize("link", [0, 1])
def test_a_damaged_file_of_the_chain_has_the_disk_transferred(
    vcenter: Simulator, place: Place, tmp_path: Path, link: int
) -> None:
    at_its_end(vcenter, place)
    rot(files_of(place.store, place.newest())[link])
    result = place.export(OFF, **ENDS)
    is_transferred_whole(vcenter, place, result, tmp_path, "Hard disk 1 was transferred whole, not written from the")
    assert any(one.endswith("Record the damage with: hyperexport verify") for one in result.manifest.warnings)
    assert [disk.synthetic for disk in disks_of(result)] == [False, True]


def test_a_change_that_change_tracking_lost_has_the_disk_transferred_and_its_tracking_distrusted(
    vcenter: Simulator, place: Place, tmp_path: Path
) -> None:
    at_its_end(vcenter, place)
    vcenter.vm(OFF).guest_write(0, 20 * GRAIN, b"lost")
    vcenter.faults.add(Fault(FaultKind.CBT_OMITS, vm=OFF, at_byte=20 * GRAIN, times=0))
    result = place.export(OFF, **ENDS, transport_sample=100)
    is_transferred_whole(vcenter, place, result, tmp_path, "is exported whole, because the block at byte 1310720")
    entry = disks_of(result)[0]
    assert entry.distrusted == (entry.change_id or "").rpartition("/")[0]
    assert disks_of(result)[1].distrusted is None


def test_a_transport_that_fails_midway_has_the_disk_transferred(
    vcenter: Simulator, place: Place, tmp_path: Path
) -> None:
    at_its_end(vcenter, place)
    vcenter.faults.add(Fault(FaultKind.FOLDER_SHORT, vm=OFF, at_byte=33 * GRAIN, times=0))
    result = place.export(OFF, **ENDS)
    is_transferred_whole(vcenter, place, result, tmp_path, "was read whole by its lease, not in ranges by datastore")


@pytest.mark.parametrize("form", [{"max_chain": 0}, {"format": "ova"}], ids=["max-chain-0", "ova"])
def test_where_disks_are_always_whole_only_what_changed_is_read(
    vcenter: Simulator, place: Place, form: dict[str, Any]
) -> None:
    place.export(OFF, **form)
    for seed in (1, 2):
        change(vcenter, OFF, seed)
        result = place.export(OFF, **form)
        for disk in disks_of(result):
            assert (disk.synthetic, disk.transport, disk.chain) == (True, Transport.DATASTORE, ())
            assert disk.received is not None
            assert disk.received < 30 * GRAIN
        assert stored(place.store, place.newest()) == guest(vcenter, OFF)
        assert verify(place.store, place.newest(), VerifyMode.ON, StopSignal())[1].findings == ()


def test_nothing_is_made_of_a_damaged_disk_in_an_ova(vcenter: Simulator, place: Place) -> None:
    place.export(OFF, format="ova")
    change(vcenter, OFF)
    base = place.newest()
    disk = base.manifest.disks[0]
    rot(Path(place.store.url) / str(base) / "off.ova", (disk.offset or 0) + disk.size // 2)
    result = place.export(OFF, format="ova")
    assert [disk.synthetic for disk in disks_of(result)] == [False, True]
    assert "Hard disk 1 was transferred whole" in str(result.manifest and result.manifest.warnings)
    assert stored(place.store, place.newest()) == guest(vcenter, OFF)


def test_nothing_is_downloaded_from_a_bucket_to_make_a_whole_disk_each_night(
    vcenter: Simulator, server: S3Server
) -> None:
    bucket = s3_place(server, server.make_bucket("whole-disks"))
    bucket.export(OFF, max_chain=0)
    change(vcenter, OFF)
    result = bucket.export(OFF, max_chain=0)
    assert not any(disk.synthetic for disk in disks_of(result))
    assert stored(bucket.store, bucket.newest()) == guest(vcenter, OFF)
