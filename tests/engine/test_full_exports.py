"""A full export is a copy of its own, so that one rotten file never takes every restore point; and what all take is
counted as `du` counts it, or the bucket's own listing."""

import os
import subprocess
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.errors import ChecksumMismatch
from hyperexport.model.content import added_bytes, shared_with, stored_bytes
from hyperexport.model.manifest import ExportKind
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Cleanup
from hyperexport.results import ExportResult
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.steps import package
from hyperexport.steps.cleanup import delete_planned, plan_store_cleanup
from hyperexport.steps.ova import pack_ova
from hyperexport.steps.verification import verify
from hyperexport.store.base import Store, StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.store.contents import StoreContents
from hyperexport.store.local import LocalStore
from hyperexport.views import metrics
from hyperexport.views.survey import survey
from tests.engine.s3_exports import open_store, settings
from tests.engine.s3_servers import S3Server

MIB = 1 << 20
TWINS = 7
"""Two of the disks have the same content: a file of its own each, in a full export."""


@pytest.fixture
def vcenter(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A VM that is off: what did not change is proved, and not read again."""
    disks = (DiskSpec(2 * MIB, used=1.0, seed=TWINS), DiskSpec(2 * MIB, used=1.0, seed=TWINS), DiskSpec(MIB))
    with Simulator([VmSpec("db01", powered_on=False, disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


UNCOUNTED = {"export.json", "mark-verified.json", "mark-preserved.json"}


class Place:
    """A store, how to export into it, and what other tools see there."""

    def __init__(self, store: Store, root: Path, options: dict[str, Any]) -> None:
        self.store, self.root, self._options = store, root, options

    def export(self, **options: Any) -> ExportResult:
        return hyperexport.export("db01", **self._options, **options)

    def disks(self, export: StoredExport) -> list[Path]:
        return sorted((self.root / str(export)).glob("*.vmdk"))

    def files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file() and path.name not in UNCOUNTED]

    def newest(self) -> StoredExport:
        return self.store.exports()[0]

    def du(self) -> int:
        """Bytes of everything but the manifests and marks. Of several hard links `du` counts one, in one call."""
        done = subprocess.run(["du", "-cb", *self.files()], check=True, capture_output=True, text=True)
        return int(done.stdout.splitlines()[-1].split()[0])


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(LocalStore(tmp_path / "exports"), tmp_path / "exports", {"output": tmp_path / "exports"})
    server: S3Server = request.getfixturevalue("server")
    bucket = server.make_bucket(f"b{abs(hash(request.node.name)) % 10**9}")
    options = {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3": settings(server)}
    return Place(open_store(server, bucket, "vms"), server.root / bucket / "vms", options)


def rot(path: Path) -> None:
    """Change a byte in the middle of a file, in place: every name of it sees that."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def is_sound(place: Place, export: StoredExport) -> bool:
    _, found = verify(place.store, export, VerifyMode.DEEP, StopSignal())
    return found.ok


FULL_FOR_EVERY_REASON = [
    pytest.param({"incremental": True, "force_full": True}, id="--force-full"),
    pytest.param({"incremental": True, "full_after": timedelta(microseconds=1)}, id="--full-after"),
    pytest.param({}, id="not incremental"),
]


@pytest.mark.sample("local-*", "s3---force-full", "*force-full-s3")
@pytest.mark.parametrize("options", FULL_FOR_EVERY_REASON)
@pytest.mark.usefixtures("vcenter")
def test_a_full_export_of_a_vm_that_did_not_change_survives_the_rot_of_all_earlier_ones(
    place: Place, options: dict[str, Any]
) -> None:
    place.export(incremental=True)
    place.export(incremental=True)
    before = place.du()
    result = place.export(**options)
    incremental, first = place.store.exports()[1:]

    assert result.manifest is not None
    assert result.manifest.kind is ExportKind.FULL
    assert result.manifest.shares_with == ()
    assert {entry.stored_in for entry in result.manifest.disks} == {None}
    assert place.du() - before == result.manifest.stored_bytes
    for path in place.disks(first):
        rot(path)
    assert not is_sound(place, first)
    assert not is_sound(place, incremental)
    assert is_sound(place, place.newest())
    names = shared_with((one.folder, one.manifest) for one in (place.newest(), incremental, first))
    assert names == {str(place.newest()): (), str(incremental): (str(first),), str(first): (str(incremental),)}


@pytest.mark.usefixtures("vcenter")
def test_an_export_that_is_full_because_its_base_is_damaged_uses_none_of_the_bases_bytes(place: Place) -> None:
    place.export(incremental=True)
    for path in place.disks(place.newest()):
        rot(path)
    assert not is_sound(place, place.newest())

    result = place.export(incremental=True)

    assert "damaged" in result.plan.reason
    assert result.manifest is not None
    assert result.manifest.shares_with == ()
    assert is_sound(place, place.newest())


@pytest.mark.usefixtures("vcenter")
def test_what_follows_a_full_export_shares_its_bytes_and_not_those_of_older_ones(place: Place) -> None:
    place.export(incremental=True)
    place.export(incremental=True, force_full=True)
    full = place.newest()
    place.export(incremental=True)

    assert place.newest().manifest.shares_with == (full.export_id,)


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> Generator[Simulator]:
    """A running VM whose changes nobody tracks: no disk can be proved unchanged, and each is read every time."""
    disks = (DiskSpec(2 * MIB, used=1.0), DiskSpec(MIB))
    with Simulator([VmSpec("db01", change_tracking=False, disks=disks)]) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        yield simulator


@pytest.mark.sample("local")
def test_disks_that_cannot_be_proved_unchanged_are_read_every_night_and_equal_bytes_are_stored_once(
    untracked: Simulator, place: Place
) -> None:
    first = place.export(incremental=True, snapshot=True).manifest
    assert first is not None
    disks = sum(entry.size for entry in first.disks)
    size = place.du()
    for night in range(3):
        if night == 2:
            untracked.vm("db01").guest_write(1, 0, b"changed")
        before = untracked.requests.get("ExportSnapshot", 0)
        result = place.export(incremental=True, snapshot=True)
        made = result.manifest
        assert made is not None
        assert untracked.requests["ExportSnapshot"] > before
        assert (made.kind, made.last_full) == (ExportKind.INCREMENTAL, first.export_id)
        assert made.base == place.store.exports()[1].export_id
        assert [entry.transferred for entry in made.disks] == [True, True]
        assert first.export_id in made.shares_with
        assert is_sound(place, place.newest())
    added = place.du() - size
    assert added < disks, "three nights add one small disk and three descriptors"

    result = place.export(incremental=True, snapshot=True, full_after=timedelta(microseconds=1))
    assert result.manifest is not None
    assert (result.manifest.kind, result.manifest.shares_with) == (ExportKind.FULL, ())
    assert place.du() - size - added > disks - MIB // 4


@pytest.mark.usefixtures("untracked")
def test_bytes_that_just_came_never_give_way_to_an_equal_file_that_has_rotted(place: Place) -> None:
    place.export(incremental=True, snapshot=True)
    first = place.newest()
    rot(place.disks(first)[0])

    made = place.export(incremental=True, snapshot=True, verify=False).manifest

    assert made is not None
    assert made.kind is ExportKind.INCREMENTAL
    assert not is_sound(place, first)
    assert is_sound(place, place.newest())
    rotten, sound = first.manifest.disks
    assert [(one.name, one.written_as) for one in made.disks] == [
        (rotten.name, f"{made.export_id}/{rotten.name}"),
        (sound.name, f"{first.export_id}/{sound.name}"),
    ]
    assert any(rotten.name in words and str(first) in words and "verify" in words for words in made.warnings)


@pytest.mark.sample("*ovf*")
@pytest.mark.parametrize("earlier", ["ovf", "ova"])
@pytest.mark.usefixtures("vcenter")
def test_bytes_that_are_read_to_be_packed_or_copied_are_proved_and_else_transferred(
    tmp_path: Path, earlier: str
) -> None:
    place = Place(LocalStore(tmp_path), tmp_path, {"output": tmp_path})
    place.export(incremental=True, format=earlier)
    first = place.newest()
    for path in (tmp_path / str(first)).glob("*.vmdk" if earlier == "ovf" else "*.ova"):
        rot(path)

    result = place.export(incremental=True, verify=False, format="ova")

    assert not is_sound(place, first)
    assert is_sound(place, place.newest())
    assert result.manifest is not None
    assert any(entry.transferred for entry in result.manifest.disks)
    assert any("transferred anyway" in words for words in result.warnings)


@pytest.mark.usefixtures("vcenter")
def test_a_file_that_changes_while_it_waits_to_be_packed_fails_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rot_what_waits(job: object, copies: object, files: object) -> object:
        rot(next(tmp_path.rglob("*.partial/*.vmdk")))
        return pack_ova(job, copies, files)  # type: ignore[arg-type]

    monkeypatch.setattr(package, "pack_ova", rot_what_waits)
    place = Place(LocalStore(tmp_path), tmp_path, {"output": tmp_path})
    with pytest.raises(ChecksumMismatch, match=r"\.vmdk changed"):
        place.export(format="ova")
    assert place.store.exports() == []


@pytest.mark.usefixtures("untracked")
def test_a_base_of_which_a_file_cannot_be_read_makes_the_next_export_full_and_fails_none(tmp_path: Path) -> None:
    place = Place(LocalStore(tmp_path), tmp_path, {"output": tmp_path})
    place.export(incremental=True, snapshot=True)
    one = place.disks(place.newest())[0]
    one.rename(tmp_path / "elsewhere")
    one.symlink_to(tmp_path / "elsewhere")

    result = place.export(incremental=True, snapshot=True)

    assert result.manifest is not None
    assert result.manifest.kind is ExportKind.FULL
    assert "cannot be read" in result.plan.reason
    assert is_sound(place, place.newest())


def figures(place: Place) -> dict[str, int]:
    """What each face says that the store takes."""
    exports = place.store.exports()
    pairs = [(export.folder, export.manifest) for export in exports]
    found = survey(CachedStore(place.store))
    contents = StoreContents(store=place.store.url, exports=tuple(exports))
    text = metrics.as_text(metrics.StoreCollector([place.store], version="1"))
    told = [line for line in text.splitlines() if line.startswith("hyperexport_vm_stored_bytes{")]
    return {
        "all": stored_bytes(pairs),
        "by export": sum(added_bytes(pairs).values()),
        "report": found.stored_bytes,
        "report by VM": sum(vm.stored_bytes for vm in found.vms),
        "metrics": round(sum(float(line.rpartition(" ")[2]) for line in told)),
        "notebook": contents.stored_bytes,
        "notebook by export": sum(contents.added_bytes.values()),
        "cleanup": plan_store_cleanup(place.store, Cleanup(enabled=True, max_count=99)).kept_bytes,
    }


@pytest.mark.sample("local")
def test_every_figure_of_stored_bytes_is_what_du_counts_after_each_export_and_each_deletion(
    vcenter: Simulator, place: Place
) -> None:
    # By ranges of the datastore nobody learns what the disk's stream would take, and the plan knows a bound only.
    incremental: dict[str, Any] = {"incremental": True, "transport": "lease"}
    steps: list[dict[str, Any]] = [*[incremental] * 3, {**incremental, "force_full": True}, {}, incremental]
    for number, options in enumerate(steps):
        if number == 2:
            vcenter.vm("db01").power_on()
            vcenter.vm("db01").guest_write(2, 0, b"changed")
            vcenter.vm("db01").power_off()
        before = place.du() if number else 0
        coming = place.export(dry_run=True, cleanup=True, cleanup_max_count=99, **options)
        place.export(**options)
        assert set(figures(place).values()) == {place.du()}, options
        (planned,) = coming.cleanups
        if number == 1:
            assert planned.plan.kept_bytes == before, "an unchanged VM adds no disk"
        if number in (3, 4):
            disks = sum(path.stat().st_size for path in place.disks(place.newest()))
            assert planned.plan.kept_bytes - before == disks, "a full export adds every disk"

    while len(place.store.exports()) > 1:
        before, keep = place.du(), len(place.store.exports()) - 1
        plan = plan_store_cleanup(place.store, Cleanup(enabled=True, max_count=keep))
        if not plan.to_delete:
            break
        done = delete_planned(place.store, plan, lambda _: False)
        assert done.freed_bytes >= plan.freed_bytes
        assert plan.freed_bytes == before - place.du()
        assert len(done.deleted) == len(plan.to_delete)
        assert set(figures(place).values()) == {place.du()}
