"""How well VMs are protected, in the words of a report and in metrics, with the dashboard and alerts made of them."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import hyperexport
from hyperexport.base.units import MIB, format_bytes
from hyperexport.errors import StoreUnreachable
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.drill import DrillRecord, DrillTarget, Sign
from hyperexport.model.manifest import ExportManifest, Quiescing, SkippedDisk, SnapshotRecord, StageName, vm_folder
from hyperexport.model.vm import VmRef
from hyperexport.store.base import Record, RecordName, StoredExport
from hyperexport.store.cached_store import CachedStore
from hyperexport.store.listing import StoreListing, listing_of
from hyperexport.views.metrics import StoreCollector, as_text, registry_of, write_textfile
from hyperexport.views.plots import bar_plot, line_plot
from hyperexport.views.store_page import store_page
from hyperexport.views.survey import StoreSurvey, VmSurvey, survey
from tests.examples import NOW, VM, an_export

DOCS = Path(hyperexport.__file__).parents[1] / "docs"
RPO = timedelta(hours=26)
DAY = timedelta(days=1)


class Shelf:
    """A store of manifests that counts what is read from it."""

    url = "/exports"

    def __init__(self, *manifests: ExportManifest) -> None:
        self.manifests = {(vm_folder(one.vm), one.export_id): one for one in manifests}
        self.unreadable: set[tuple[str, str]] = set()
        self.drills: list[Record] = []
        self.read: list[str] = []
        self.broken = False

    def manifest_versions(self) -> dict[tuple[str, str], str]:
        if self.broken:
            raise StoreUnreachable("nobody answers")
        return {place: one.model_dump_json() for place, one in self.manifests.items()} | dict.fromkeys(
            self.unreadable, "rotten"
        )

    def listing(self, folder: str) -> StoreListing:
        self.read.append(folder)
        found = [StoredExport(folder=place[0], manifest=one) for place, one in self.manifests.items()]
        rotten = [
            DamagedExport(folder=place[0], export_id=place[1], problem=Problem.SEAL, reason="its seal is broken")
            for place in self.unreadable
        ]
        return listing_of(
            [export for export in found if export.folder == folder],
            [one for one in rotten if one.folder == folder],
            same_file=lambda *place: "/".join(place),
        )

    def records(self, listing: StoreListing) -> list[Record]:
        return self.drills if listing.exports else []

    def free_bytes(self) -> int:
        return 5 * MIB


def snapshot(**changes: object) -> SnapshotRecord:
    values = {"name": "hx", "moref": "snapshot-7", "created": NOW, "quiescing": Quiescing.FILESYSTEM, **changes}
    return SnapshotRecord.model_validate(values)


def surveyed(*manifests: ExportManifest) -> StoreSurvey:
    return survey(CachedStore(Shelf(*manifests)), NOW)


def missing(*manifests: ExportManifest) -> Sequence[str]:
    (vm,) = surveyed(*manifests).vms
    return vm.missing(NOW, RPO)


# -- the survey --------------------------------------------------------------------------------------------------------


def test_a_young_verified_export_lacks_nothing():
    assert missing(an_export(age=timedelta(hours=25), verified=NOW, snapshot=snapshot(held=12.0))) == ()


def test_an_old_export_is_late_and_a_damaged_one_does_not_count():
    old, rotten = an_export(age=3 * DAY, verified=NOW), an_export(age=DAY, tail="0001", damage=("disk: rotten",))
    (vm,) = surveyed(old, rotten).vms
    assert vm.last_good == old
    assert vm.is_late(NOW, RPO)
    assert vm.missing(NOW, RPO) == ("the last good export is 3d old", f"damaged: {rotten.export_id}")


def test_a_clock_that_was_ahead_makes_no_export_younger_and_no_verification_newer():
    """The server told its time: the export is three days old, whatever this machine's clock said."""
    ahead = an_export(age=timedelta(hours=1), server_time=NOW - 3 * DAY, verified=NOW + 700 * DAY)
    (vm,) = surveyed(ahead).vms
    assert vm.age(NOW) == 3 * DAY
    assert vm.is_late(NOW, RPO)
    assert vm.last_verified is None
    proved = an_export(age=2 * DAY, verified=NOW - DAY)
    (vm,) = surveyed(ahead, proved).vms
    assert vm.last_verified == NOW - DAY


def test_a_vm_of_which_every_manifest_is_damaged_is_late_and_named_by_its_folder():
    shelf = Shelf()
    shelf.unreadable.add((vm_folder(VM), "20261120T000000Z-dead"))
    found = survey(CachedStore(shelf), NOW)
    (vm,) = found.late(RPO)
    assert vm.name == vm_folder(VM)
    assert vm.missing(NOW, RPO) == (
        "no good export: every one is damaged",
        "damaged: 20261120T000000Z-dead: its seal is broken. " + found.unproved[0].remedy,
    )
    assert found.unproved[0].remedy == (
        f"Restore {vm_folder(VM)}/20261120T000000Z-dead/export.json from a copy; if there is none and no export is "
        f"reported as stored in it, delete {vm_folder(VM)}/20261120T000000Z-dead/ by hand"
    )
    assert [str(one) for one in found.unproved] == [f"{vm_folder(VM)}/20261120T000000Z-dead"]
    assert "20261120T000000Z-dead: its seal is broken" in store_page([found], RPO, version="1.0")
    metrics = told(shelf)
    assert metrics["hyperexport_vm_damaged_exports"] == {(vm_folder(VM),): 1}
    assert metrics["hyperexport_vm_exports"] == {(vm_folder(VM),): 0}
    assert metrics["hyperexport_store_unreadable_exports"] == {(): 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verified": None}, "the last good export was never verified"),
        ({"snapshot": snapshot(leaked=True)}, "snapshot hx could not be removed and may still grow"),
        ({"snapshot": snapshot(quiescing=Quiescing.CRASH_CONSISTENT)}, "the last export is only crash-consistent"),
        (
            {"skipped_disks": (SkippedDisk(key=2001, label="Hard disk 2", reason="independent"),)},
            "not in the export: Hard disk 2",
        ),
    ],
)
def test_what_a_careful_administrator_would_look_at_is_named(changes, words):
    assert missing(an_export(**{"age": DAY, "verified": NOW, **changes})) == (words,)


def test_a_store_that_does_not_answer_is_told_of_and_holds_nothing():
    shelf = Shelf(an_export())
    shelf.broken = True
    assert survey(CachedStore(shelf), NOW) == StoreSurvey(store="/exports", taken=NOW, problem="nobody answers")


def test_only_the_vm_whose_manifests_changed_is_read_again():
    other = VmRef(
        moref="vm-2", name="web01", path="/DC0/vm/web01", instance_uuid="ffffffff-0000-0000-0000-000000000000"
    )
    shelf = Shelf(an_export(), an_export(vm=other))
    catalogue = CachedStore(shelf)
    first = catalogue.look()
    assert shelf.read == sorted(first, key=shelf.read.index)
    shelf.read.clear()
    assert catalogue.look() == first
    assert shelf.read == []

    fresh = an_export(age=timedelta(0), vm=other)
    shelf.manifests[vm_folder(other), fresh.export_id] = fresh
    shelf.unreadable.add((vm_folder(VM), "20261120T000000Z-dead"))
    again = catalogue.look()
    assert again[vm_folder(other)].exports[0].export_id == fresh.export_id
    assert [str(one) for one in again[vm_folder(VM)].damaged] == [f"{vm_folder(VM)}/20261120T000000Z-dead"]

    shelf.manifests = {place: one for place, one in shelf.manifests.items() if place[0] != vm_folder(other)}
    assert list(catalogue.look()) == [vm_folder(VM)]


def test_a_manifest_is_proved_again_after_an_hour_though_its_mark_is_the_same(monkeypatch: pytest.MonkeyPatch):
    shelf = Shelf(an_export())
    catalogue = CachedStore(shelf)
    hours = iter((0.0, 3599.0, 3600.0))
    monkeypatch.setattr("hyperexport.store.cached_store.time.monotonic", lambda: next(hours))
    catalogue.look()
    catalogue.look()
    assert len(shelf.read) == 1
    catalogue.look()
    assert len(shelf.read) == 2


# -- the metrics -------------------------------------------------------------------------------------------------------


def told(*shelves: Shelf) -> dict[str, dict[tuple[str, ...], float]]:
    """Each metric with its values, by the values of its labels besides the store's."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(as_text(StoreCollector(shelves, version="1.0"))):
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name not in ("store", "folder"))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def everything() -> Shelf:
    """A store in which every metric has a value."""
    stages = {StageName.DISKS: 60.0, StageName.REMOVE_SNAPSHOT: 4.5}
    shelf = Shelf(an_export(age=DAY, verified=NOW, snapshot=snapshot(held=66.5), stages=stages))
    shelf.drills = [drilled(one) for one in shelf.manifests.values()]
    return shelf


def drilled(export: ExportManifest, *, passed: bool = True, of: str = "") -> Record:
    """The record of a drill an hour ago; of another export, where one is named."""
    drill = DrillRecord(
        drill_id="20261123T050000Z-0000",
        export_id=of or export.export_id,
        vm=export.vm,
        vcenter_uuid=export.vcenter_uuid,
        target=DrillTarget.QEMU,
        platform="QEMU",
        started=NOW - timedelta(hours=1),
        seconds={"boot": 20.0},
        passed=passed,
        sign=Sign.CONSOLE if passed else Sign.NONE,
        reason="as it was",
    )
    return Record(RecordName(vm_folder(export.vm), export.export_id, drill.file_name), drill.to_json())


def test_only_a_proved_drill_that_passed_says_when_a_vm_was_last_drilled():
    name = "hyperexport_vm_last_drill_timestamp_seconds"
    shelf = everything()
    (one,) = shelf.manifests.values()
    assert told(shelf)[name] == {("db01",): (NOW - timedelta(hours=1)).timestamp()}
    good = drilled(one)
    for record in (
        drilled(one, passed=False),
        drilled(one, of="20261101T000000Z-0000"),
        good._replace(data=good.data.replace(b"as it was", b"as it is!")),
        good._replace(data=b"{}"),
    ):
        shelf.drills = [record]
        assert name not in told(shelf)


def test_metrics_tell_what_the_manifest_says():
    shelf = everything()
    (one,) = shelf.manifests.values()
    metrics = told(shelf)
    assert metrics["hyperexport_vm_last_success_timestamp_seconds"] == {("db01",): one.started.timestamp()}
    assert metrics["hyperexport_vm_last_export_transferred_bytes"] == {("db01",): one.transfer.bytes_transferred}
    assert metrics["hyperexport_vm_last_export_snapshot_seconds"] == {("db01",): 66.5}
    assert metrics["hyperexport_vm_last_export_stage_seconds"] == {
        ("export-disk", "db01"): 60.0,
        ("remove-snapshot", "db01"): 4.5,
    }
    assert metrics["hyperexport_store_up"] == {(): 1}
    assert metrics["hyperexport_store_free_bytes"] == {(): 5 * MIB}


def test_what_is_not_known_is_absent_and_never_zero():
    metrics = told(Shelf(an_export(age=DAY, damage=("rotten",))))
    assert metrics["hyperexport_vm_damaged_exports"] == {("db01",): 1}
    for name in ("last_success_timestamp_seconds", "last_verified_timestamp_seconds", "last_export_snapshot_seconds"):
        assert f"hyperexport_vm_{name}" not in metrics


def test_a_store_that_cannot_be_read_is_down_and_the_other_is_told_of():
    broken = everything()
    broken.broken, broken.url = True, "s3://away"
    text = as_text(StoreCollector([broken, everything()], version="1.0"))
    assert 'hyperexport_store_up{store="s3://away"} 0.0' in text
    assert 'hyperexport_store_up{store="/exports"} 1.0' in text
    assert text.count("hyperexport_vm_exports{") == 1


def test_the_textfile_is_the_whole_text_under_its_name_alone(tmp_path: Path):
    write_textfile(StoreCollector([everything()], version="1.0"), tmp_path / "hyperexport.prom")
    assert [path.name for path in tmp_path.iterdir()] == ["hyperexport.prom"]
    assert "hyperexport_vm_exports{" in (tmp_path / "hyperexport.prom").read_text()


def names_in(expressions: Sequence[str]) -> set[str]:
    return {name for text in expressions for name in re.findall(r"hyperexport_[a-z_]+", text)}


def test_dashboard_and_alerts_ask_for_metrics_that_exist_and_the_dashboard_leaves_none_out():
    exist = {
        sample.name
        for family in registry_of(StoreCollector([everything()], version="1.0")).collect()
        for sample in family.samples
    }
    dashboard = json.loads((DOCS / "grafana" / "hyperexport.json").read_text())
    asked = names_in([target["expr"] for panel in dashboard["panels"] for target in panel["targets"]])
    asked |= names_in([item.get("definition", "") for item in dashboard["templating"]["list"]])
    rules = yaml.safe_load((DOCS / "prometheus" / "hyperexport.rules.yml").read_text())
    alerts = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    assert asked <= exist
    assert names_in(list(alerts.values())) <= exist
    assert exist - asked <= {
        "hyperexport_build_info",
        "hyperexport_store_read_seconds",
        "hyperexport_store_unreadable_exports",
        "hyperexport_vm_last_export_full",
    }
    assert {"HyperExportTooOld", "HyperExportVerificationFailed", "HyperExportSnapshotLeaked"} <= set(alerts)


def test_every_metric_is_in_the_documentation():
    exist = {
        sample.name
        for family in registry_of(StoreCollector([everything()], version="1.0")).collect()
        for sample in family.samples
    }
    page = (DOCS / "observability.md").read_text()
    assert {name for name in exist if f"`{name}`" not in page} == set()


# -- the page ----------------------------------------------------------------------------------------------------------

EVIL = '<script>alert("x")</script>\u202e&'


def test_the_page_escapes_every_name_and_asks_no_network_for_anything():
    vm = VM.model_copy(update={"name": EVIL, "path": f"/DC0/vm/{EVIL}"})
    exports = [
        an_export(age=age * DAY, tail=f"000{age}", vm=vm, snapshot=snapshot(name=EVIL, leaked=True))
        for age in (1, 2, 3)
    ]
    page = store_page([surveyed(*exports)], RPO, version="1.0")
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href|url)\s*[=(]|@import|https?:|\son\w+=""", page)
    assert page.count("<svg") == 5, "two of the store, three of the VM"


def test_the_page_names_what_is_missing_and_says_late_by_the_objective():
    page = store_page([surveyed(an_export(age=2 * DAY))], RPO, version="1.0")
    assert "the last good export is 2d old" in page
    assert ">late<" in page
    assert ">late<" not in store_page([surveyed(an_export(age=2 * DAY))], 3 * DAY, version="1.0")


def test_a_page_of_nothing_and_of_a_store_that_is_away_is_a_page():
    page = store_page(
        [surveyed(), StoreSurvey(store="s3://away", taken=NOW, problem="no answer <b>")], RPO, version="1.0"
    )
    assert "No export is stored here" in page
    assert "no answer &lt;b&gt;" in page


def test_pictures_are_drawn_for_so_many_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hyperexport.views.store_page.MOST_PICTURED", 1)
    vms = [
        VmSurvey(folder=f"db01.{n:08x}", exports=(an_export(age=DAY, tail="0001"), an_export(age=2 * DAY)))
        for n in range(3)
    ]
    page = store_page([StoreSurvey(store="/exports", taken=datetime.now(UTC), vms=tuple(vms))], RPO, version="1.0")
    assert page.count("<figure>") == 3
    assert "Pictures are drawn for 1 VMs" in page


@pytest.mark.parametrize("draw", [line_plot, bar_plot])
def test_a_picture_is_shapes_and_text_with_its_values_beside_the_pointer(draw):
    root = ET.fromstring(draw([("11-01", 1.0 * MIB), ("11-02", 3.0 * MIB)], shown=format_bytes))
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "rect", "line", "circle", "text", "title"}
    assert "11-02: 3.0 MB" in [title.text for title in root.iter("title")]
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on") or "href" in name]
