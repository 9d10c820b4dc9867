"""An export belongs to one VM of one server. A name, a folder and an instance UUID that two VMs share decide nothing.

What is expected is worked out from which simulator and which machine each export was made of.
"""

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.errors import UsageError
from hyperexport.model.manifest import FILE_NAME, ExportKind, ExportManifest, vm_folder
from hyperexport.model.ownership import Owner
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.choosing import choose_export
from hyperexport.steps.preservation import preserve
from hyperexport.store.base import StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.store.local import LocalStore
from hyperexport.views.survey import survey
from hyperexport.vsphere.endpoint import VSphereEndpoint
from tests.engine.local_exports import (
    FIRST,
    OWNER,
    SECOND,
    THIRD,
    an_entry,
    manifest_of,
    write_export,
    write_file,
)
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_servers import S3Server
from tests.examples import VM

MIB = 1 << 20
ONE_VM = (VmSpec("db01", powered_on=False, disks=(DiskSpec(4 * MIB),)),)
LIMITS: list[dict[str, Any]] = [
    {"cleanup_max_count": 1},
    {"cleanup_max_age": timedelta(microseconds=1)},
    {"cleanup_max_size": 1},
    {"cleanup_min_free": 1 << 60},
]
LIMIT_NAMES = ["count", "age", "size", "free"]


def endpoint(simulator: Simulator) -> VSphereEndpoint:
    return VSphereEndpoint(
        url=simulator.url, username=simulator.username, password=simulator.password, ca_file=str(simulator.ca_file)
    )


def export(simulator: Simulator, store: LocalStore, vm: str = "db01", **options: Any) -> ExportResult:
    return hyperexport.export(vm, vsphere=endpoint(simulator), output=Path(store.url), **options)


def manifest(result: ExportResult) -> ExportManifest:
    assert result.manifest is not None
    return result.manifest


def ids(store: LocalStore) -> set[str]:
    return {one.export_id for one in store.exports()}


def is_of(result: ExportResult, simulator: Simulator, vm: str, raw: Path) -> bool:
    """Whether qemu-img finds the machine's own bytes in the export's disk."""
    simulator.vm(vm).save_raw(0, raw)
    (disk,) = Path(result.locations[0]).glob("*.vmdk")
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "vmdk", "-F", "raw", disk, raw], check=False, capture_output=True
    )
    return compared.returncode == 0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def twins() -> Generator[tuple[Simulator, Simulator]]:
    """Two vCenters with a VM of one name, one instance UUID and one moref; the second's disk holds something else."""
    with Simulator(ONE_VM) as one, Simulator(ONE_VM) as other:
        other.vm("db01").guest_write(0, 0, b"another machine altogether" * 100)
        assert one.vm("db01").instance_uuid == other.vm("db01").instance_uuid
        yield one, other


@pytest.mark.sample("age", "size")
@pytest.mark.parametrize("limit", LIMITS, ids=LIMIT_NAMES)
def test_a_cleanup_after_the_export_of_one_vm_takes_none_of_another_vcenters_vm_of_that_uuid(
    twins: tuple[Simulator, Simulator], store: LocalStore, limit: dict[str, Any]
) -> None:
    one, other = twins
    theirs = manifest(export(one, store)).export_id
    old = manifest(export(other, store)).export_id
    new = manifest(export(other, store, cleanup=True, **limit)).export_id
    assert ids(store) == {theirs, new}
    assert old not in ids(store)


def test_a_vm_is_never_built_on_another_vcenters_vm_of_that_uuid(
    twins: tuple[Simulator, Simulator], store: LocalStore, tmp_path: Path
) -> None:
    one, other = twins
    first = export(one, store, incremental=True)
    second = export(other, store, incremental=True)
    third = export(other, store, incremental=True)
    assert (manifest(second).kind, manifest(second).base, manifest(second).predecessors) == (ExportKind.FULL, None, ())
    assert manifest(third).base == manifest(second).export_id
    assert is_of(first, one, "db01", tmp_path / "one.raw")
    assert is_of(second, other, "db01", tmp_path / "other.raw")
    assert is_of(third, other, "db01", tmp_path / "other.raw")
    assert Path(first.locations[0]).parent != Path(second.locations[0]).parent


def test_a_young_export_of_another_vcenters_vm_of_that_uuid_leaves_no_vm_out(
    twins: tuple[Simulator, Simulator], store: LocalStore
) -> None:
    one, other = twins
    export(one, store)
    made = export(other, store, skip_newer_than="1h")
    again = export(other, store, skip_newer_than="1h")
    assert made.manifest is not None
    assert again.manifest is None or again.manifest.export_id == made.manifest.export_id
    assert len(ids(store)) == 2


def test_what_is_said_of_one_vm_is_not_said_of_another_vcenters_vm_of_that_uuid(
    twins: tuple[Simulator, Simulator], store: LocalStore
) -> None:
    one, other = twins
    theirs, mine = export(one, store), export(other, store)
    vms = survey(CachedStore(store)).vms
    assert sorted(len(vm.exports) for vm in vms) == [1, 1]
    assert {vm.exports[0].vcenter_uuid for vm in vms} == {manifest(theirs).vcenter_uuid, manifest(mine).vcenter_uuid}
    assert len({vm.label for vm in vms}) == 2
    with pytest.raises(UsageError, match="several VMs") as raised:
        choose_export([store], vm="db01")
    assert all(manifest(result).export_id in str(raised.value) for result in (theirs, mine))


@pytest.fixture
def nameless() -> Generator[Simulator]:
    """Two VMs of one name in two folders of one server, which have no instance UUID."""
    disks = (DiskSpec(4 * MIB),)
    specs = [VmSpec("db01", folder=folder, powered_on=False, disks=disks) for folder in ("customer-a", "customer-b")]
    with Simulator(specs) as simulator:
        for vm in simulator.vms():
            vm._machine.settings.instance_uuid = ""  # pyright: ignore[reportPrivateUsage] - as an old ESXi has it
        simulator.vm("/DC0/vm/customer-b/db01").guest_write(0, 0, b"another customer" * 100)
        yield simulator


@pytest.mark.sample("count", "free")
@pytest.mark.parametrize("limit", LIMITS, ids=LIMIT_NAMES)
def test_two_vms_without_a_uuid_keep_their_exports_and_their_bases_apart(
    nameless: Simulator, store: LocalStore, tmp_path: Path, limit: dict[str, Any]
) -> None:
    a, b = (f"/DC0/vm/customer-{name}/db01" for name in "ab")
    of_a = export(nameless, store, a, incremental=True)
    of_b = export(nameless, store, b, incremental=True)
    assert manifest(of_b).kind is ExportKind.FULL
    last = export(nameless, store, b, incremental=True, skip_newer_than="0s", cleanup=True, **limit)
    assert manifest(last).base == manifest(of_b).export_id
    assert ids(store) == {manifest(of_a).export_id, manifest(last).export_id}
    assert is_of(of_a, nameless, a, tmp_path / "a.raw")
    assert is_of(last, nameless, b, tmp_path / "b.raw")


@pytest.mark.sample("count")
@pytest.mark.parametrize("limit", LIMITS[:3], ids=LIMIT_NAMES[:3])  # a bucket has no end
def test_two_vms_without_a_uuid_keep_their_exports_and_their_bases_apart_in_a_bucket(
    nameless: Simulator, server: S3Server, limit: dict[str, Any]
) -> None:
    bucket = server.make_bucket(f"b{uuid.uuid4().hex}")
    place = {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3": settings(server)}
    whole = {"incremental": True, "max_chain": 0}  # a delta would hold the export that it builds on
    bucket_store = open_store(server, bucket, "vms")

    def export_to_bucket(path: str, **options: Any) -> ExportResult:
        return hyperexport.export(path, vsphere=endpoint(nameless), **whole, **place, **options)

    def disk_of(result: ExportResult) -> bytes:
        with hyperexport.open_export(manifest(result).export_id, upload=place["upload"], s3=place["s3"]) as opened:
            return opened.disks[0].read(0, opened.disks[0].capacity)

    a, b = (f"/DC0/vm/customer-{name}/db01" for name in "ab")
    of_a, of_b = export_to_bucket(a), export_to_bucket(b)
    assert [manifest(one).kind for one in (of_a, of_b)] == [ExportKind.FULL, ExportKind.FULL]
    (again,) = [export_to_bucket(b, skip_newer_than="1h")]
    assert again.recent is not None
    nameless.vm(b).guest_write(0, 8192, b"changed since" * 100)
    last = export_to_bucket(b, skip_newer_than="0s", cleanup=True, **limit)

    assert manifest(last).base == manifest(of_b).export_id
    assert {one.export_id for one in bucket_store.exports()} == {manifest(of_a).export_id, manifest(last).export_id}
    assert [vm.path for vm in survey(CachedStore(bucket_store)).vms] == [a, b]
    for result, path in ((of_a, a), (last, b)):
        assert disk_of(result) == nameless.vm(path).read_disk(0, 0, 4 * MIB)


def rename(simulator: Simulator, old: str, new: str) -> None:
    machine = simulator.vm(old)._machine  # pyright: ignore[reportPrivateUsage] - as vCenter's own client does it
    machine.settings.name = machine._name = new  # pyright: ignore[reportPrivateUsage]


def test_a_renamed_vm_goes_on_incrementally_in_its_folder(store: LocalStore) -> None:
    with Simulator(ONE_VM) as simulator:
        first = export(simulator, store, incremental=True)
        rename(simulator, "db01", "db01-old")
        second = export(simulator, store, "db01-old", incremental=True)
        skipped = export(simulator, store, "db01-old", skip_newer_than="1h")
    assert (manifest(second).kind, manifest(second).base) == (ExportKind.INCREMENTAL, manifest(first).export_id)
    assert [entry.transferred for entry in manifest(second).disks] == [False]
    assert Path(first.locations[0]).parent == Path(second.locations[0]).parent
    assert len(ids(store)) == 2
    assert skipped.manifest is None or skipped.manifest.export_id == manifest(second).export_id
    (vm,) = survey(CachedStore(store)).vms
    assert vm.name == "db01-old"


def test_exports_in_the_folder_of_an_earlier_name_count_in_the_retention_of_the_vm(store: LocalStore) -> None:
    """As earlier versions left them: a folder for each name of the VM."""
    with Simulator(ONE_VM) as simulator:
        old = export(simulator, store)
        rename(simulator, "db01", "web01")
        folder = Path(old.locations[0]).parent
        folder.rename(folder.with_name(f"db01-older{folder.name[-9:]}"))
        middle = export(simulator, store, "web01")
        middle_folder = Path(middle.locations[0]).parent
        middle_folder.rename(folder.with_name(f"web01{folder.name[-9:]}"))
        new = export(simulator, store, "web01", cleanup=True, cleanup_max_count=2)
    assert ids(store) == {manifest(middle).export_id, manifest(new).export_id}


def test_another_vms_export_in_the_folder_takes_no_part_in_it(store: LocalStore, tmp_path: Path) -> None:
    specs = [VmSpec(name, powered_on=False, disks=(DiskSpec(4 * MIB),)) for name in ("db01", "web01")]
    with Simulator(specs) as simulator:
        old = export(simulator, store, incremental=True)
        foreign = Path(export(simulator, store, "web01").locations[0])
        copy = Path(old.locations[0]).parent / foreign.name
        shutil.copytree(foreign, copy)
        shutil.rmtree(foreign.parent)
        new = export(simulator, store, incremental=True, cleanup=True, cleanup_max_count=1)
        assert manifest(new).base == manifest(old).export_id
        assert ids(store) == {foreign.name, manifest(new).export_id}
        again = export(simulator, store, incremental=True, cleanup=True, cleanup_max_count=1)
        assert ids(store) == {foreign.name, manifest(again).export_id}
        assert is_of(again, simulator, "db01", tmp_path / "db01.raw")
    assert {vm.name: len(vm.exports) for vm in survey(CachedStore(store)).vms} == {"db01": 1, "web01": 1}


def test_a_new_folder_that_another_vms_run_is_writing_to_is_left_to_it(
    twins: tuple[Simulator, Simulator], store: LocalStore, tmp_path: Path
) -> None:
    one, other = twins
    theirs = manifest(export(one, LocalStore(tmp_path / "elsewhere")))
    folder = vm_folder(theirs.vm)
    owner = Owner.of_this_process(
        run="theirs", vcenter=theirs.vcenter, vcenter_uuid=theirs.vcenter_uuid, vm=theirs.vm.instance_uuid
    )
    with store.stage(folder, "20261122T060000Z-0000", owner):
        made = export(other, store)
    assert Path(made.locations[0]).parent.name != folder


EXPORT = """
import sys, hyperexport
from hyperexport.vsphere.endpoint import VSphereEndpoint
url, username, password, ca_file, *stores = sys.argv[1:]
server = VSphereEndpoint(url=url, username=username, password=password, ca_file=ca_file)
for store in stores:
    sys.stdin.readline()
    print(hyperexport.export("db01", vsphere=server, output=store, incremental=True).locations[0], flush=True)
"""


def test_two_vms_that_race_for_one_new_folder_both_get_one(twins: tuple[Simulator, Simulator], tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path / f"store-{attempt}") for attempt in range(3)]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, "-c", EXPORT, one.url, one.username, one.password, str(one.ca_file)),
                        *(store.url for store in stores),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for one in twins
        ]
        answers: list[list[str]] = []
        for _ in stores:
            for run in runs:
                assert run.stdin
                run.stdin.write("begin\n")
                run.stdin.flush()
            answers.append([run.stdout.readline() for run in runs if run.stdout])
    assert [run.returncode for run in runs] == [0, 0]
    for store, answer in zip(stores, answers, strict=True):
        made = [Path(line.strip()) for line in answer]
        servers = [json.loads((path / FILE_NAME).read_text())["vcenter_uuid"] for path in made]
        assert len(set(servers)) == 2
        assert made[0].parent != made[1].parent
        assert {path.name for path in made} == ids(store)


def write_twin(store: LocalStore) -> StoredExport:
    """Write an export of another VM with the id that :func:`write_export` gives to the first one."""
    name, data = "web01-disk-0.vmdk", b"KDMV web"
    other = VM.model_copy(update={"name": "web01", "moref": "vm-77", "instance_uuid": str(uuid.uuid4())})
    twin = manifest_of(FIRST, an_entry(name, data), vm=other)
    with store.stage(vm_folder(other), twin.export_id, OWNER) as staging:
        write_file(staging, name, data)
        return staging.publish(twin)


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "one is damaged"])
def test_preserving_by_a_bare_id_that_two_vms_have_marks_neither_and_lists_both(
    store: LocalStore, *, damaged: bool
) -> None:
    first, twin = write_export(store, FIRST), write_twin(store)
    assert first.export_id == twin.export_id
    if damaged:
        (Path(store.url) / str(twin) / FILE_NAME).write_text("{}")
    for on in (True, False):
        with pytest.raises(UsageError, match="several VMs") as raised:
            preserve([store], [first.export_id], on=on)
        assert str(first) in str(raised.value)
        assert str(twin) in str(raised.value)
    assert not any(one.manifest.preserve for one in store.exports())
    ((_, marked),) = preserve([store], [str(first)], on=True)
    assert str(marked) == str(first)
    assert [str(one) for one in store.exports() if one.manifest.preserve] == [str(first)]


def test_copies_of_one_export_are_all_preserved_by_its_bare_id(store: LocalStore) -> None:
    first = write_export(store, FIRST)
    shutil.copytree(Path(store.url) / first.folder, Path(store.url) / f"db01-older{first.folder[-9:]}")
    assert len(preserve([store], [first.export_id], on=True)) == 2


def test_what_is_damaged_in_a_renamed_vms_old_folder_is_said_of_that_vm(store: LocalStore) -> None:
    old, rotten, new = (write_export(store, age) for age in (FIRST, SECOND, THIRD))
    older = Path(store.url) / f"db01-older{old.folder[-9:]}"
    older.mkdir()
    for one in (old, rotten):
        (Path(store.url) / str(one)).rename(older / one.export_id)
    (older / rotten.export_id / FILE_NAME).write_text("{}")
    (vm,) = survey(CachedStore(store)).vms
    assert [one.export_id for one in vm.exports] == [new.export_id, old.export_id]
    assert vm.damaged == (rotten.export_id,)


def test_copies_of_an_export_in_two_folders_are_counted_as_two_in_the_stored_bytes(store: LocalStore) -> None:
    export = write_export(store, FIRST)
    once = survey(CachedStore(store)).stored_bytes
    shutil.copytree(Path(store.url) / export.folder, Path(store.url) / f"db01-older{export.folder[-9:]}")
    assert survey(CachedStore(store)).stored_bytes > once
