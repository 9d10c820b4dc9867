"""Fleets of two vCenters in one store, local and S3: no VM's export counts, is shown or is read for another VM.

Both vCenters have VMs of the same names, instance UUIDs and morefs. Which export is whose is known from the vCenter
that each fleet was run on; what a disk holds, from the machine's own disk.
"""

import secrets
import time
from collections import Counter
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

import hyperexport
from hyperexport.errors import UsageError
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.fleet import directly, export_fleet
from hyperexport.model.manifest import ExportKind
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import FleetOutcome, FleetResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.preservation import preserve
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.views.metrics import StoreCollector, as_text
from hyperexport.views.survey import survey
from hyperexport.vsphere.endpoint import VSphereEndpoint
from tests.engine.s3_servers import S3Server, rclone_s3

MIB = 1 << 20
AGE = timedelta(seconds=1)
NAMES = ("db01", "web01")
SPECS = tuple(VmSpec(name, powered_on=False, disks=(DiskSpec(MIB),)) for name in NAMES)
LIMITS: list[dict[str, Any]] = [
    {"cleanup_max_count": 1},
    {"cleanup_max_age": f"{AGE.seconds}s"},
    {"cleanup_max_size": 1},
    {"cleanup_min_free": 1 << 60},
]

S3_WITH_FAULTS = pytest.mark.parametrize(
    "place", ["local", pytest.param("s3", marks=pytest.mark.faults)], indirect=True
)


class Place(NamedTuple):
    """A store, and how jobs reach it."""

    options: dict[str, Any]
    store: Store

    def exports(self) -> list[StoredExport]:
        return self.store.exports()

    def ids(self) -> set[str]:
        return {one.export_id for one in self.exports()}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        patch.setenv("AWS_ACCESS_KEY_ID", running.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", running.secret_key)
        patch.setenv("AWS_CA_BUNDLE", str(running.ca_file))
        yield running


@pytest.fixture(scope="module")
def twins() -> Generator[tuple[Simulator, Simulator]]:
    """Two vCenters; the disks of the second's VMs hold something else."""
    with Simulator(SPECS) as one, Simulator(SPECS) as other:
        for name in NAMES:
            other.vm(name).guest_write(0, 0, f"the other's {name}".encode() * 100)
            assert one.vm(name).instance_uuid == other.vm(name).instance_uuid
        yield one, other


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place({"output": tmp_path / "store"}, hyperexport.open_store(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3")
    url = f"s3://{server.make_bucket(f'b{secrets.token_hex(8)}')}/vms"
    login = hyperexport.S3Settings(endpoint_url=server.endpoint_url)
    options = {"upload": url, "keep_local": False, "s3_endpoint": server.endpoint_url}
    return Place(options, hyperexport.open_store(url, s3=login))


def endpoint(simulator: Simulator) -> VSphereEndpoint:
    return VSphereEndpoint(
        url=simulator.url, username=simulator.username, password=simulator.password, ca_file=str(simulator.ca_file)
    )


def fleet(simulator: Simulator, place: Place, **options: Any) -> FleetResult:
    """Export all VMs of a vCenter, incrementally."""
    run = DirectRunner(vsphere=endpoint(simulator))
    wanted = ExportOptions.from_keys({"incremental": True, **place.options, **options})
    return export_fleet(run, Selection(match=("*",)), wanted, export_one=directly(run), redo=lambda _: "")


def ids_of(result: FleetResult) -> dict[str, str]:
    """The export of each VM of a fleet, by the VM's name."""
    made = {member.vm.name: member.result.manifest for member in result.members if member.result}
    return {name: manifest.export_id for name, manifest in made.items() if manifest}


def rename(simulator: Simulator, old: str, new: str) -> None:
    machine = simulator.vm(old)._machine  # pyright: ignore[reportPrivateUsage] - as vCenter's own client does it
    machine.settings.name = machine._name = new  # pyright: ignore[reportPrivateUsage]


def first_disk(place: Place, export: str) -> bytes:
    with hyperexport.open_export(export, **place.options) as opened:
        return opened.disks[0].read(0, opened.disks[0].capacity)


def raw(simulator: Simulator, vm: str, folder: Path) -> bytes:
    simulator.vm(vm).save_raw(0, folder / "disk.raw")
    return (folder / "disk.raw").read_bytes()


def let_them_age(place: Place) -> None:
    """Return once every export is old enough for the limit of age; a fast machine gets here within the second."""
    newest = max(export.manifest.started for export in place.exports())
    while datetime.now(UTC) - newest <= AGE:
        time.sleep(0.05)


def outcomes(result: FleetResult) -> Sequence[FleetOutcome]:
    return [member.outcome for member in result.members]


@S3_WITH_FAULTS
def test_two_vcenters_share_a_store_and_neither_skips_builds_on_or_deletes_what_is_the_others(
    twins: tuple[Simulator, Simulator], place: Place, tmp_path: Path
) -> None:
    one, other = twins
    theirs = ids_of(fleet(one, place))

    mine = fleet(other, place, skip_newer_than="1h")
    assert outcomes(mine) == [FleetOutcome.EXPORTED] * 2
    assert {member.result.manifest.kind for member in mine.members if member.result and member.result.manifest} == {
        ExportKind.FULL
    }
    assert outcomes(fleet(other, place, skip_newer_than="1h")) == [FleetOutcome.SKIPPED] * 2
    where = {export.export_id: str(export) for export in place.exports()}
    for name in NAMES:
        assert first_disk(place, where[theirs[name]]) == raw(one, name, tmp_path)
        assert first_disk(place, where[ids_of(mine)[name]]) == raw(other, name, tmp_path)

    planned = fleet(other, place, dry_run=True, cleanup=True, **LIMITS[0])
    (plan,) = planned.cleanups
    assert {item.export_id for item in plan.plan.to_delete} <= set(ids_of(mine).values())
    last = ids_of(mine)
    for limit in LIMITS if place.store.refers is False else LIMITS[:1]:
        let_them_age(place)
        last = ids_of(fleet(other, place, force_full=True, cleanup=True, **limit))
        assert place.ids() == {*theirs.values(), *last.values()}


@S3_WITH_FAULTS
def test_every_view_keeps_the_vms_of_two_vcenters_apart(
    twins: tuple[Simulator, Simulator], place: Place, tmp_path: Path
) -> None:
    one, other = twins
    theirs, mine = ids_of(fleet(one, place)), ids_of(fleet(other, place))
    where = {export.export_id: str(export) for export in place.exports()}
    assert len(set(where.values())) == 4

    found = survey(CachedStore(place.store))
    assert Counter(vm.name for vm in found.vms) == {"db01": 2, "web01": 2}
    assert all(len(vm.exports) == 1 for vm in found.vms)
    series = Counter(
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(as_text(StoreCollector([place.store], version="0")))
        for sample in family.samples
    )
    assert max(series.values()) == 1
    assert sum(name == "hyperexport_vm_exports" for name, *_ in series) == 4

    options: dict[str, Any] = place.options
    for name in NAMES:
        both = (theirs[name], mine[name])
        asked = [lambda name=name: hyperexport.convert_export(vm=name, to="raw", into=tmp_path / "raw", **options)]
        asked += [lambda name=name: hyperexport.list_volumes(vm=name, **options)]
        asked += [lambda name=name: hyperexport.serve_disks(vm=name, **options).__enter__()]
        asked += [lambda name=name: hyperexport.open_export(vm=name, **options).__enter__()]
        asked += [lambda name=name: hyperexport.open_export(vm=one.vm(name).instance_uuid, **options).__enter__()]
        for ask in asked:
            with pytest.raises(UsageError, match="several VMs") as refused:
                ask()
            assert all(export_id in str(refused.value) for export_id in both)
        for simulator, export_id in zip(twins, both, strict=True):
            folder = where[export_id].split("/")[0]
            with hyperexport.open_export(vm=folder, **options) as opened:
                assert opened.export.export_id == export_id
                assert opened.disks[0].read(0, MIB) == raw(simulator, name, tmp_path)
        ((_, marked),) = preserve([place.store], [both[0]], on=True)
        assert marked.export_id == both[0]
    assert len(hyperexport.verify_exports(theirs["db01"], **options)) == 1
    assert {one.export_id for one in place.exports() if one.manifest.preserve} == set(theirs.values())


@S3_WITH_FAULTS
def test_a_renamed_vm_goes_on_in_its_folder_and_a_new_vm_of_its_old_name_begins_its_own(
    place: Place, tmp_path: Path
) -> None:
    disks = (DiskSpec(MIB),)
    with Simulator([VmSpec(name, powered_on=False, disks=disks) for name in ("db01", "spare")]) as simulator:
        first = ids_of(fleet(simulator, place))
        rename(simulator, "db01", "db01-old")
        rename(simulator, "spare", "db01")
        simulator.vm("db01").guest_write(0, 0, b"quite new" * 100)
        second = fleet(simulator, place)
        kinds = {member.vm.name: member.result.manifest for member in second.members if member.result}
        assert (manifest := kinds["db01-old"])
        assert manifest.base == first["db01"]
        assert (manifest := kinds["db01"])
        assert manifest.base == first["spare"]
        by_vm = {vm.name: [one.export_id for one in vm.exports] for vm in survey(CachedStore(place.store)).vms}
        assert by_vm == {
            "db01-old": [ids_of(second)["db01-old"], first["db01"]],
            "db01": [ids_of(second)["db01"], first["spare"]],
        }
        with hyperexport.open_export(vm="db01", **place.options) as opened:  # whose name it is today
            assert opened.disks[0].read(0, MIB) == raw(simulator, "db01", tmp_path)
        with hyperexport.open_export(vm="db01-old", **place.options) as opened:
            assert opened.disks[0].read(0, MIB) == raw(simulator, "db01-old", tmp_path)
        (cleanup,) = hyperexport.cleanup_exports(
            cleanup=True, cleanup_max_count=1, cleanup_dry_run=True, cleanup_preserve=["db01-old"], **place.options
        )
        assert not {first["db01"], *ids_of(second).values()} & {one.export_id for one in cleanup.plan.to_delete}


@S3_WITH_FAULTS
def test_a_copy_to_which_vsphere_gave_another_uuid_and_a_vm_that_moved_to_another_vcenter_are_vms_of_their_own(
    twins: tuple[Simulator, Simulator], place: Place
) -> None:
    one, other = twins
    before = ids_of(fleet(one, place))
    machine = one.vm("db01")._machine  # pyright: ignore[reportPrivateUsage] - "I copied it" in vSphere's own question
    uuid = machine.settings.instance_uuid
    machine.settings.instance_uuid = f"{uuid[:-1]}{(int(uuid[-1], 16) + 1) % 16:x}"
    try:
        copied = fleet(one, place, cleanup=True, cleanup_max_count=1)
    finally:
        machine.settings.instance_uuid = uuid
    made = next(member.result for member in copied.members if member.vm.name == "db01")
    assert made
    assert made.manifest
    assert made.manifest.base is None
    moved = fleet(other, place, cleanup=True, cleanup_max_count=1)
    bases = [member.result.manifest.base for member in moved.members if member.result and member.result.manifest]
    assert bases == [None, None]
    assert before["db01"] in place.ids()
    assert len({export.folder for export in place.exports() if export.manifest.vm.name == "db01"}) == 3
