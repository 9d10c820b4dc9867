"""What is said of an export after it was published lies in marks beside it: the export itself is written once.

A life of a VM's exports on S3 (exports that build on each other, a whole one at the end of the chain, verification,
preservation, cleanup), watched from outside; and marks that rot, which say nothing and let nothing be deleted.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.errors import StoreUnusable
from hyperexport.model.manifest import FILE_NAME
from hyperexport.model.marks import MARK_FILES, PreservedMark, VerifiedMark
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Cleanup
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.preservation import preserve
from hyperexport.steps.verification import verify
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Store
from tests.chains import Place, guest, stored
from tests.engine.local_exports import FIRST, FOLDER, SECOND, THIRD, forge, write_export
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_proxy import Answer, Proxy, faulty_proxy, refusal
from tests.engine.s3_servers import S3Server, radosgw_s3

MIB = 1 << 20
KEEP_ONE = Cleanup(enabled=True, max_count=1)
VERIFIED, PRESERVED = VerifiedMark.file_name, PreservedMark.file_name


# -- the export itself is written once --------------------------------------------------------------------------------


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    with Simulator([VmSpec("db01", disks=(DiskSpec(2 * MIB, used=0.5, seed=5),))]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.fixture
def proxy(server: S3Server, tmp_path: Path) -> Generator[Proxy]:
    with faulty_proxy(server, tmp_path) as running:
        yield running


def place_behind(proxy: Proxy, server: S3Server, bucket: str) -> Place:
    reached = {"endpoint_url": proxy.endpoint_url, "ca_bundle": proxy.ca_file}
    options = {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3": settings(server, **reached)}
    return Place(open_store(server, bucket, "vms", **reached), options)


def key_of(target: str) -> tuple[str, str]:
    """An object's key without its bucket, and the file name at its end."""
    key = unquote(urlsplit(target).path).removeprefix("/").partition("/")[2]
    return key, key.rpartition("/")[2]


def objects_written(requests: list[str]) -> Counter[str]:
    """How often each object of an export was written, whole or by completing an upload; the stores' own are hidden."""
    found: Counter[str] = Counter()
    for request in requests:
        method, _, target = request.partition(" ")
        key, name = key_of(target)
        query = urlsplit(target).query
        whole = method == "PUT" and "uploadId=" not in query
        if (whole or (method == "POST" and "uploadId=" in query)) and name and not name.startswith("."):
            found[key] += 1
    return found


def live(vcenter: Simulator, place: Place, *, days: int = 6, max_chain: int = 2) -> dict[str, list[bytes]]:
    """Exports with all that is done to exports; each one's bytes by its id."""
    bytes_of: dict[str, list[bytes]] = {}
    for day in range(days):
        vcenter.vm("db01").guest_write(0, day * 70_000, b"day %d" % day)
        made = place.export(max_chain=max_chain, verify="on", cleanup=day == 4, cleanup_max_count=3).manifest
        bytes_of[made.export_id] = guest(vcenter)
        if day == 1:
            (newest, *_) = place.store.exports()
            assert newest.manifest.verified
            verify(place.store, newest, VerifyMode.ON, StopSignal())
            for on in (True, False, True):
                preserve([place.store], [made.export_id], on=on)
    return bytes_of


def prove(place: Place, bytes_of: dict[str, list[bytes]]) -> None:
    for export in place.store.exports():
        assert stored(place.store, export) == bytes_of[export.export_id]
        again, found = verify(place.store, export, VerifyMode.DEEP, StopSignal())
        assert (found.findings, found.unrecorded) == ((), None)
        assert again.manifest.verified


def test_no_object_of_an_export_is_written_twice_but_its_marks(
    vcenter: Simulator, server: S3Server, proxy: Proxy
) -> None:
    place = place_behind(proxy, server, server.make_bucket("once"))
    bytes_of = live(vcenter, place)
    lengths = {export.manifest.deltas for export in place.store.exports()}
    done = delete_planned(place.store, plan_store_cleanup(place.store, KEEP_ONE), lambda _: True)

    counts = objects_written(proxy.requests)
    again = {key for key, count in counts.items() if count > 1}
    assert len([key for key in counts if key.endswith(f"/{FILE_NAME}")]) == 6
    assert len([key for key in counts if key.endswith(".vmdk")]) == 6
    assert {key.rpartition("/")[2] for key in again} == set(MARK_FILES)
    assert lengths > {0}
    assert done.deleted
    prove(place, bytes_of)
    kept = {str(export) for export in place.store.exports()}
    assert [export.manifest.preserve for export in place.store.exports()].count(True) == 1
    listed = server.client().list_objects_v2(Bucket="once", Prefix="vms/").get("Contents", [])
    assert {item["Key"].removeprefix("vms/").rpartition("/")[0] for item in listed} == kept


def test_where_nothing_can_be_overwritten_or_deleted_but_marks_only_the_refused_deletions_are_said(
    vcenter: Simulator, server: S3Server, proxy: Proxy
) -> None:
    """A policy that lets a backup's own files be written once and never deleted."""
    there: set[str] = set()

    def worm(method: str, target: str, _headers: Message, _body: bytes) -> Answer | None:
        key, name = key_of(target)
        if not name or name.startswith(".hyperexport") or "uploadId" in target:
            return None
        if method == "DELETE" and name != ".owner.json" and not name.startswith(".upload"):
            return refusal(403, "AccessDenied")
        if method == "PUT":
            if key in there and name not in {*MARK_FILES, ".deleted"}:
                return refusal(403, "AccessDenied")
            there.add(key)
        return None

    proxy.before = worm
    place = place_behind(proxy, server, server.make_bucket("worm"))
    bytes_of = live(vcenter, place, days=3, max_chain=1)
    _, preserved, oldest = place.store.exports()
    preserve([place.store], [preserved.export_id], on=False)
    for _ in range(2):  # the second time, the first one's attempt has left its marks
        done = delete_planned(place.store, plan_store_cleanup(place.store, KEEP_ONE), lambda _: True)
        assert done.deleted == ()
        assert done.failed
        assert all("AccessDenied" in words for words in done.failed)
        assert len(place.store.exports()) == 3
    prove(place, bytes_of)
    preserve([place.store], [oldest.export_id], on=True)
    assert place.store.exports()[-1].manifest.preserve
    (newest, *_) = place.store.exports()
    assert place.export(max_chain=1).manifest.base == newest.export_id


@pytest.mark.radosgw
def test_under_a_default_retention_a_life_of_exports_goes_on(
    vcenter: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with radosgw_s3(tmp_path_factory.mktemp("radosgw")) as running:
        client, bucket = running.client(), "locked"
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
        rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
        options = {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3": settings(running)}
        place = Place(open_store(running, bucket, "vms"), options)
        bytes_of = live(vcenter, place)
        done = delete_planned(place.store, plan_store_cleanup(place.store, KEEP_ONE), lambda _: True)
        assert (done.failed, done.freed_bytes) == ((), 0)
        assert done.deleted
        prove(place, bytes_of)
        versions = client.list_object_versions(Bucket=bucket, Prefix="vms/")["Versions"]
        written = Counter(item["Key"] for item in versions if "/." not in item["Key"])
        assert {key.rpartition("/")[2] for key, count in written.items() if count > 1} == set(MARK_FILES)
        assert len([key for key in written if key.endswith(f"/{FILE_NAME}")]) == 6, "the retention keeps all of them"


# -- what a mark says -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path / "exports")
    server: S3Server = request.getfixturevalue("server")
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return open_store(server, server.make_bucket(f"m{name}"), "vms")


def write(store: Store, export: StoredExport, name: str, data: bytes) -> None:
    """Put bytes where a mark lies, past the code under test."""
    if isinstance(store, S3Store):
        store._bucket.replace(f"vms/{export}/{name}", data)  # pyright: ignore[reportPrivateUsage]
    else:
        (Path(store.url) / str(export) / name).write_bytes(data)


def marks_of(export: StoredExport) -> list[PreservedMark | VerifiedMark]:
    then = datetime(2026, 11, 1, tzinfo=UTC)
    return [
        PreservedMark(export_id=export.export_id, preserve=True),
        VerifiedMark(export_id=export.export_id, verified=then, damage=("disk 0 rotted",), seconds=3),
    ]


def test_a_mark_takes_the_place_of_what_an_earlier_version_wrote_into_the_manifest(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    export = write_export(store, FIRST)
    then = datetime(2026, 11, 1, tzinfo=UTC)
    forge(store, export, preserve=True, verified=then, damage=("disk 0 rotted",))
    (old,) = store.exports()
    assert (old.manifest.preserve, old.manifest.verified, old.manifest.damage) == (True, then, ("disk 0 rotted",))
    before = (tmp_path / str(export) / FILE_NAME).read_bytes()

    store.write_mark(old, PreservedMark(export_id=old.export_id, preserve=False))
    store.write_mark(old, VerifiedMark(export_id=old.export_id, verified=then + timedelta(days=1), seconds=2))

    (new,) = store.exports()
    assert (new.manifest.preserve, new.manifest.damage) == (False, ())
    assert new.manifest.verified == then + timedelta(days=1)
    assert (tmp_path / str(export) / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("kind", [0, 1], ids=MARK_FILES[::-1])
def test_no_flipped_bit_of_a_mark_says_anything_or_lets_its_export_be_deleted(tmp_path: Path, kind: int) -> None:
    store = LocalStore(tmp_path)
    oldest, _, newest = (write_export(store, age) for age in (FIRST, SECOND, THIRD))
    mark = marks_of(oldest)[kind]
    data = mark.to_json()
    wrong: list[int] = []
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        write(store, oldest, mark.file_name, bytes(flipped))
        found = store.read(FOLDER, oldest.export_id)
        if found != oldest.model_copy(update={"unproved_marks": (mark.file_name,)}):
            wrong.append(bit)
    assert wrong == []
    plan = plan_store_cleanup(store, KEEP_ONE)
    kept = {item.export_id: item.reason for item in plan.items if not item.delete}
    assert kept.keys() == {newest.export_id, oldest.export_id}
    assert mark.file_name in kept[oldest.export_id]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.replace(b"-", b"_"),
        lambda data: data * 9000,
        lambda _: PreservedMark(export_id="20200101T000000Z-0000", preserve=False).to_json(),
    ],
    ids=["empty", "cut", "longer", "of another id", "too large", "of another export"],
)
def test_a_mark_that_is_not_proved_keeps_its_export_until_it_is_written_again(
    store: Store, spoil: Callable[[bytes], bytes]
) -> None:
    oldest, _ = (write_export(store, age) for age in (FIRST, SECOND))  # type: ignore[arg-type]
    plan = plan_store_cleanup(store, KEEP_ONE)
    assert [item.export_id for item in plan.to_delete] == [oldest.export_id]
    for mark in marks_of(oldest):
        write(store, oldest, mark.file_name, spoil(mark.to_json()))
    (_, found) = store.exports()
    assert (found.manifest, found.unproved_marks) == (oldest.manifest, (VERIFIED, PRESERVED))

    done = delete_planned(store, plan, lambda _: True)
    assert done.deleted == ()
    assert f"{PRESERVED} is damaged" in done.deferred[0]
    assert "preserve it again" in done.deferred[0]
    assert plan_store_cleanup(store, KEEP_ONE).to_delete == ()

    preserve([store], [oldest.export_id], on=False)
    store.write_mark(oldest, VerifiedMark(export_id=oldest.export_id, seconds=1))
    assert [item.export_id for item in plan_store_cleanup(store, KEEP_ONE).to_delete] == [oldest.export_id]


def test_an_export_whose_verification_cannot_be_read_takes_no_period_from_a_good_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    good, doubtful, newest = (write_export(store, age) for age in (FIRST, SECOND, THIRD))
    for export in (doubtful, newest):
        write(store, export, VERIFIED, b"{}")
    plan = plan_store_cleanup(store, KEEP_ONE)
    assert plan.to_delete == ()
    reasons = {item.export_id: item.reason for item in plan.items}
    assert "that is not damaged" in reasons[good.export_id]


def test_a_deletion_takes_the_marks_along_and_counts_their_bytes(store: Store) -> None:
    first, second = (write_export(store, age) for age in (FIRST, SECOND))  # type: ignore[arg-type]
    bare = store.delete(second)
    for mark in marks_of(first):
        first = store.write_mark(first, mark)
    assert store.delete(first) == bare + sum(len(mark.to_json()) for mark in marks_of(first))
    assert store.folders() == []


def test_marks_do_not_count_as_files_that_do_not_belong_to_an_export(store: Store) -> None:
    export = write_export(store, FIRST)  # type: ignore[arg-type]
    for mark in marks_of(export):
        export = store.write_mark(export, mark)
    _, found = verify(store, export, VerifyMode.DEEP, StopSignal())
    assert not {finding.file for finding in found.findings} & set(MARK_FILES)


# -- a mark and a deletion at once, in a bucket, which knows no locks -------------------------------------------------


def behind(proxy: Proxy, server: S3Server, bucket: str) -> S3Store:
    return open_store(server, bucket, "vms", endpoint_url=proxy.endpoint_url, ca_bundle=proxy.ca_file)


@pytest.mark.parametrize("at", range(12))
def test_an_export_is_never_called_preserved_and_then_deleted(server: S3Server, proxy: Proxy, at: int) -> None:
    """A person preserves it between any two requests of its deletion."""
    bucket = server.make_bucket(f"race{at}")
    plain = open_store(server, bucket, "vms")
    export = write_export(plain, FIRST)  # type: ignore[arg-type]
    told: list[str] = []
    seen = 0

    def meanwhile(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == at + 1:
            try:
                plain.write_mark(export, PreservedMark(export_id=export.export_id, preserve=True))
                told.append("preserved")
            except hyperexport.errors.HyperExportError:
                told.append("refused")

    proxy.before = meanwhile
    try:
        behind(proxy, server, bucket).delete(export)
        deleted = True
    except StoreUnusable:
        deleted = False
    proxy.before = Proxy.before
    there = plain.listing()
    assert there.damaged == ()
    assert [str(one) for one in there.exports] == ([] if deleted else [str(export)])
    if told == ["preserved"]:
        assert not deleted
        assert there.exports[0].manifest.preserve
    if deleted:
        assert server.client().list_objects_v2(Bucket=bucket).get("Contents", []) == []


@pytest.mark.parametrize("at", range(6))
def test_a_mark_that_is_being_written_leaves_nothing_of_an_export_that_is_deleted_meanwhile(
    server: S3Server, proxy: Proxy, at: int
) -> None:
    bucket = server.make_bucket(f"hollow{at}")
    plain = open_store(server, bucket, "vms")
    export = write_export(plain, FIRST)  # type: ignore[arg-type]
    seen = 0
    deleted = False

    def meanwhile(*_: object) -> None:
        nonlocal seen, deleted
        seen += 1
        if seen == at + 1:
            try:
                plain.delete(export)
                deleted = True
            except StoreUnusable:
                pass

    proxy.before = meanwhile
    written = True
    try:
        behind(proxy, server, bucket).write_mark(export, PreservedMark(export_id=export.export_id, preserve=True))
    except hyperexport.errors.HyperExportError:
        written = False
    proxy.before = Proxy.before
    assert not (written and deleted)
    listing = plain.listing()
    assert listing.damaged == ()
    assert len(listing.exports) == (not deleted)
    if deleted:
        assert server.client().list_objects_v2(Bucket=bucket).get("Contents", []) == []
