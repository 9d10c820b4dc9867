"""Damage that a verification finds in a file is known of every export that has the file, in every command."""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

import hyperexport
from hyperexport import errors
from hyperexport.base.stop import StopSignal
from hyperexport.cli.main import run
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.restore_points import restore_points
from hyperexport.model.manifest import FILE_NAME, FileEntry
from hyperexport.model.marks import VerifiedMark
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps import drilling
from hyperexport.steps.choosing import choose_export
from hyperexport.steps.plan import newest_with_problem
from hyperexport.steps.verification import sample_of, select_exports, verify
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.store.local import LocalStore
from hyperexport.views.metrics import StoreCollector, as_text
from hyperexport.views.survey import survey
from tests.chains import Place, folder_place, rot, s3_place
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_proxy import Answer, faulty_proxy
from tests.engine.s3_servers import S3Server

MIB = 1 << 20
BUCKET = "shared-damage"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, server: S3Server) -> dict[str, Place]:
    """A full export of its own, then a full one that three deltas build on, in a folder and in S3.

    The second disk never changes: its one file is in all four of the chain.
    """
    places = {
        "folder": folder_place(tmp_path_factory.mktemp("made") / "exports"),
        "s3": s3_place(server, server.make_bucket(BUCKET)),
    }
    disks = (DiskSpec(2 * MIB, used=0.5, seed=5), DiskSpec(MIB, used=0.5, seed=6))
    with pytest.MonkeyPatch.context() as patch, Simulator([VmSpec("db01", disks=disks)]) as vcenter:
        for name, value in vcenter.environment().items():
            patch.setenv(name, value)
        both = Place(places["s3"].store, {**places["s3"].options, **places["folder"].options, "keep_local": True})
        for day in range(5):
            vcenter.vm("db01").guest_write(0, day * 70_000, b"day %d" % day)
            both.export(force_full=day == 1)
    for place in places.values():
        deltas = [export.manifest.deltas for export in reversed(place.store.exports())]
        assert deltas == [0, 0, 1, 2, 3]
    return places


@pytest.fixture
def folder(made: dict[str, Place], tmp_path: Path) -> Place:
    """A folder with the same hard links, which the test may damage."""
    subprocess.run(["cp", "-a", made["folder"].store.url, tmp_path / "exports"], check=True)
    return folder_place(tmp_path / "exports")


def by_age(store: Store) -> list[StoredExport]:
    return list(reversed(store.exports()))


def damaged_ids(store: Store) -> list[str]:
    return [export.export_id for export in by_age(store) if export.manifest.damage]


def path_of(place: Place, export: StoredExport, name: str) -> Path:
    return Path(place.store.url) / str(export) / name


def verify_one(place: Place, export: StoredExport, **options: object) -> set[str]:
    """Verify one export by its id; the ids of those that are said to be damaged."""
    try:
        hyperexport.verify_exports(export.export_id, **place.where, **options)  # type: ignore[arg-type]
    except errors.VerificationFailed as failed:
        return {one.location.rpartition("/")[2] for one in failed.exports if not one.verification.ok}
    return set()


class Rotten(NamedTuple):
    """Which file rots: that of a disk in an export, and from which export on the others have it."""

    disk: int
    part: int
    since: int


FILES = {
    "base": Rotten(0, 0, 1),
    "middle": Rotten(0, 2, 3),
    "newest link": Rotten(0, 3, 4),
    "unchanged": Rotten(1, 0, 1),
}


class Damaging(NamedTuple):
    """A store that the test may damage."""

    place: Place
    flags: Sequence[str]
    """By which the command line finds it."""
    destination: dict[str, object]
    """The same as options."""
    damage: Callable[[StoredExport, FileEntry], None]
    """Flips a bit of a disk's file."""


@pytest.fixture(params=["folder", "s3"])
def damaging(
    request: pytest.FixtureRequest, made: dict[str, Place], server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Generator[Damaging]:
    """A folder of its own, or the bucket, which is repaired after the test."""
    if request.param == "folder":
        place: Place = request.getfixturevalue("folder")
        url = place.store.url
        yield Damaging(
            place, ("--output", url), {"output": url}, lambda export, entry: rot(path_of(place, export, entry.name))
        )
        return
    place, client, sound = made["s3"], server.client(), dict[str, bytes]()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca_file))

    def damage(export: StoredExport, entry: FileEntry) -> None:
        key = f"vms/{export.folder}/{entry.written_as}"
        data = sound[key] = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        client.put_object(Bucket=BUCKET, Key=key, Body=bytes([*data[:-1], data[-1] ^ 1]))

    url, endpoint = place.store.url, server.endpoint_url
    flags = ("--upload", url, "--no-keep-local", "--s3-endpoint", endpoint)
    yield Damaging(place, flags, {"upload": url, "keep_local": False, "s3_endpoint": endpoint}, damage)
    for key, data in sound.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=data)
    for export in by_age(place.store):
        verify_one(place, export)
    assert damaged_ids(place.store) == []


@pytest.mark.parametrize("which", FILES)
def test_every_command_heeds_what_the_verification_of_one_export_found(
    damaging: Damaging, which: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rotten, place = FILES[which], damaging.place
    exports = by_age(place.store)
    newest = exports[-1]
    damaging.damage(newest, newest.manifest.parts(newest.manifest.disks[rotten.disk])[rotten.part])
    expected = [export.export_id for export in exports[rotten.since :]]
    good = exports[rotten.since - 1]

    assert verify_one(place, newest) == set(expected)

    store = place.store
    assert damaged_ids(store) == expected
    assert newest_with_problem(store, store.listing(newest.folder))[1] is not None
    assert run(["list", *damaging.flags, "--quiet", "--no-prefect"]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    named = [block for block in blocks if "\ndamage=" in block]
    assert len(named) == len(expected)
    assert all(any(f"\nexport={newest.folder}/{one}\n" in block for block in named) for one in expected)
    found = survey(CachedStore(store)).vms[0]
    assert set(found.damaged) == set(expected)
    assert found.last_good is not None
    assert found.last_good.export_id == good.export_id
    lines = as_text(StoreCollector([store], version="1")).splitlines()
    (line,) = [one for one in lines if "damaged_exports{" in one]
    assert line.endswith(f" {float(len(expected))}")
    options = ExportOptions.model_validate({"destination": damaging.destination})
    offered = {point.name.partition("/")[2] for point in restore_points(DirectRunner(), options)}
    assert offered == {export.export_id for export in exports[: rotten.since]}
    assert choose_export([store], vm="db01").export.export_id == good.export_id
    assert f"{len(expected)} newer exports are damaged" in caplog.text
    assert [one.export.export_id for one in drilling.due([store], good.manifest.finished)] == [good.export_id]
    choose_export([store], export=expected[0])
    assert f"{expected[0]} is known to be damaged" in caplog.text


def test_in_a_bucket_every_export_that_refers_to_a_damaged_object_is_damaged(
    made: dict[str, Place], server: S3Server
) -> None:
    place, client = made["s3"], server.client()
    exports = by_age(place.store)
    base = exports[1].manifest.disks[0]
    key = f"vms/{exports[1]}/{base.name}"
    sound = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes([*sound[:-1], sound[-1] ^ 1]))

    named = verify_one(place, exports[3])

    assert damaged_ids(place.store) == [export.export_id for export in exports[1:]]
    assert named == set(damaged_ids(place.store))
    client.put_object(Bucket=BUCKET, Key=key, Body=sound)
    assert verify_one(place, exports[3]) == set()
    assert damaged_ids(place.store) == []


def test_a_file_that_was_repaired_is_sound_in_all_exports_once_one_is_verified(folder: Place) -> None:
    exports = by_age(folder.store)
    base = path_of(folder, exports[1], exports[1].manifest.disks[0].name)
    at = base.stat().st_size // 2
    rot(base, at)
    assert len(verify_one(folder, exports[4])) == 4
    assert len(verify_one(folder, exports[2])) == 4
    rot(base, at)

    assert verify_one(folder, exports[3]) == set()

    assert damaged_ids(folder.store) == []


def test_what_is_repaired_in_one_copy_alone_stays_damaged_in_the_others(folder: Place) -> None:
    """As after a restore of one folder: the file there is another one, and the rotten one is still in the others."""
    exports = by_age(folder.store)
    name = exports[1].manifest.disks[0].name
    base = path_of(folder, exports[1], name)
    sound = base.read_bytes()
    rot(base)
    verify_one(folder, exports[1])
    base.unlink()
    base.write_bytes(sound)

    assert verify_one(folder, exports[1]) == set()

    assert damaged_ids(folder.store) == [export.export_id for export in exports[2:]]


def test_in_a_store_that_was_copied_without_its_links_one_rotten_copy_damages_one_export(
    folder: Place, tmp_path: Path
) -> None:
    shutil.copytree(folder.store.url, tmp_path / "copied")
    copied = folder_place(tmp_path / "copied")
    exports = by_age(copied.store)
    rot(path_of(copied, exports[1], exports[1].manifest.disks[0].name))
    assert verify_one(copied, exports[1]) == {exports[1].export_id}
    assert damaged_ids(copied.store) == [exports[1].export_id]
    assert newest_with_problem(copied.store, copied.store.listing(exports[1].folder))[1] is None


def test_the_damage_stays_known_when_the_export_that_was_verified_is_deleted(folder: Place) -> None:
    exports = by_age(folder.store)
    rot(path_of(folder, exports[2], exports[2].manifest.disks[1].name))
    verify_one(folder, exports[1])
    for export in folder.store.exports():
        if export.export_id == exports[1].export_id:
            folder.store.delete(export)
    assert damaged_ids(folder.store) == [export.export_id for export in exports[2:]]


def only_verified(store: Store, export: StoredExport) -> None:
    """Verify as a run does that ends before it records anything with other exports."""
    assert not verify(store, export, VerifyMode.ON, StopSignal())[1].ok


def test_a_mark_of_one_export_is_enough_and_a_cleanup_that_deletes_it_records_it_first(folder: Place) -> None:
    exports = by_age(folder.store)
    rot(path_of(folder, exports[1], exports[1].manifest.disks[0].name))
    only_verified(folder.store, exports[1])
    names = [export.export_id for export in exports[1:]]
    assert damaged_ids(folder.store) == names

    (result,) = hyperexport.cleanup_exports(**folder.where, cleanup_max_count=3, cleanup_trust_clock=True)

    assert result.failed == ()
    assert [name.partition("/")[2] for name in result.deleted] == [exports[1].export_id]
    assert damaged_ids(folder.store) == names[1:]
    assert by_age(folder.store)[0].export_id == exports[0].export_id, "the one that is not damaged"


def test_keep_rules_hold_the_export_that_shares_no_damaged_file(folder: Place) -> None:
    exports = by_age(folder.store)
    rot(path_of(folder, exports[4], exports[4].manifest.disks[1].name))
    verify_one(folder, exports[4])
    (result,) = hyperexport.cleanup_exports(
        **folder.where, cleanup_max_count=1, cleanup_keep_daily=1, cleanup_trust_clock=True, dry_run=True
    )
    held = [item.export_id for item in result.plan.items if item.kept_by]
    assert held == [exports[0].export_id]
    gone = {item.export_id for item in result.plan.items if item.delete}
    assert gone == {export.export_id for export in exports[1:4]}


def test_where_every_export_is_damaged_a_drill_points_to_the_list_and_not_to_the_place(folder: Place) -> None:
    for export in by_age(folder.store):
        path_of(folder, export, FILE_NAME).unlink()
    with pytest.raises(errors.ExportNotFound, match="no good export") as failed:
        drilling.due([folder.store], datetime.now(UTC))
    assert "hyperexport list" in (failed.value.fix or "")
    empty = LocalStore(Path(folder.store.url) / "misspelt")
    with pytest.raises(errors.ExportNotFound, match="Check --output"):
        drilling.due([empty], datetime.now(UTC))


def test_where_marks_cannot_be_written_listings_say_it_anyway(folder: Place) -> None:
    exports = by_age(folder.store)
    rot(path_of(folder, exports[1], exports[1].manifest.disks[0].name))
    blocked = path_of(folder, exports[2], VerifiedMark.file_name)
    blocked.mkdir()  # nothing can be put in its place
    os.sync()
    verify_one(folder, exports[1])
    assert damaged_ids(folder.store) == [export.export_id for export in exports[1:]]


def test_what_deep_reading_found_in_a_bucket_is_not_taken_back_by_a_checksum_that_the_server_keeps(
    made: dict[str, Place], server: S3Server, tmp_path: Path
) -> None:
    """An object that rots on the server's disk keeps its checksum."""
    exports = by_age(made["s3"].store)
    key = f"{exports[1]}/{exports[1].manifest.disks[0].name}"

    def rotten(method: str, target: str, answer: Answer) -> Answer:
        status, headers, data = answer
        return (status, headers, bytes([*data[:-1], data[-1] ^ 1])) if method == "GET" and key in target else answer

    with faulty_proxy(server, tmp_path) as proxy:
        reached = {"endpoint_url": proxy.endpoint_url, "ca_bundle": proxy.ca_file}
        options = {"upload": f"s3://{BUCKET}/vms", "keep_local": False, "s3": settings(server, **reached)}
        place = Place(open_store(server, BUCKET, "vms", **reached), options)
        names = [export.export_id for export in exports[1:]]
        assert verify_one(place, exports[3]) == set(), "the server's checksums are as they were"
        proxy.after = rotten
        assert verify_one(place, exports[3], verify="deep") == set(names)

        assert verify_one(place, exports[4]) == set(names)
        assert damaged_ids(place.store) == names

        proxy.after = lambda _method, _target, answer: answer
        assert verify_one(place, exports[4], verify="deep") == set()
        assert damaged_ids(place.store) == []


def test_in_a_sample_with_deep_a_checksum_of_the_server_is_no_proof(made: dict[str, Place]) -> None:
    place = made["s3"]
    alone, *chain = by_age(place.store)
    assert verify_one(place, alone, verify="deep") == set()
    for export in chain:
        assert verify_one(place, export) == set()

    (chosen,) = sample_of(select_exports([place.store], []), VerifyMode.DEEP, within=timedelta(days=1000))

    assert {export.export_id for export in chosen.exports} == {export.export_id for export in chain}
