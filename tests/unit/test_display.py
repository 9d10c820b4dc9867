"""Values show themselves in a notebook and with rich: what they say, in one place, and every text only as text."""

import io
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from hyperexport.base.display import Listing, pages_of
from hyperexport.model.damaged import DamagedExport, Problem
from hyperexport.model.manifest import short_id
from hyperexport.model.vm import VmRef
from hyperexport.policy.export_plan import Decision, DiskPlan, ExportPlan
from hyperexport.results import (
    CleanupResult,
    ExportResult,
    FleetMember,
    FleetOutcome,
    FleetResult,
    Level,
    SetupFinding,
    SetupReport,
    VerifiedExport,
)
from hyperexport.store.base import StoredExport
from hyperexport.store.contents import StoreContents
from hyperexport.verify.findings import Verification
from tests.examples import VM, an_export

HOSTILE = '<script>alert("x")</script> [red]$x$ & \x1b[2J'
HOSTILE_DAMAGE = DamagedExport(folder=HOSTILE, export_id=HOSTILE, problem=Problem.SEAL, reason=HOSTILE)
"""A name that would be markup in HTML, in rich, and for a terminal."""


def stored(age: int = 1, **changes) -> StoredExport:
    manifest = an_export(age=timedelta(days=age), **changes)
    return StoredExport(folder="db01.0123abcd", manifest=manifest)


def html_of(value) -> ET.Element:
    """What a notebook shows, proved to be well-formed: no text in it became markup."""
    return ET.fromstring(f"<div>{value._repr_html_()}</div>")


def texts(value) -> str:
    return " ".join(html_of(value).itertext())


def printed(value) -> str:
    """What rich prints."""
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(value)
    return out.getvalue()


def a_plan(vm: VmRef = VM, **changes) -> ExportPlan:
    disk = DiskPlan(
        key=2000,
        label="Hard disk 1",
        capacity=1 << 30,
        decision=Decision.TRANSFER,
        reason="3 areas changed",
        expected_bytes=5 << 20,
        whole_bytes=5 << 20,
        file_name="db01-disk-0.vmdk",
    )
    return ExportPlan.model_validate(
        {"vm": vm, "kind": "incremental", "reason": "builds on x", "disks": (disk,), **changes}
    )


def test_a_plan_shows_each_disk_with_its_decision_and_reason() -> None:
    for shown in (texts(a_plan()), printed(a_plan())):
        for word in ("/DC0", "Hard disk 1", "transfer", "3 areas changed", "5.0 MB to transfer"):
            assert word in shown


def test_a_result_shows_what_was_done_and_where_it_is() -> None:
    manifest = an_export()
    result = ExportResult(
        dry_run=False,
        plan=a_plan(),
        manifest=manifest,
        locations=("/backup/x",),
        warnings=("mind the gap",),
        seconds=61,
    )
    for shown in (texts(result), printed(result)):
        for word in (f"Exported {manifest.vm.path}", manifest.export_id, "/backup/x", "mind the gap"):
            assert word in shown


def test_a_dry_run_says_that_it_is_one() -> None:
    result = ExportResult(dry_run=True, plan=a_plan(), locations=("/backup/x",), seconds=1)
    assert "Would export" in texts(result)
    assert "Where it would be stored" in texts(result)


GONE = DamagedExport(folder="f", export_id="gone", problem=Problem.MISSING, reason="its manifest is missing")


def test_a_store_shows_a_row_for_each_export() -> None:
    contents = StoreContents(store="/backup", exports=(stored(1), stored(2, damage=("bad",))), damaged=(GONE,))
    table = html_of(contents).find("table")
    assert table is not None
    rows = [[cell.text for cell in row] for row in table.findall("tbody/tr")]
    assert [row[0] for row in rows[:2]] == [short_id(str(export)) for export in contents.exports]
    assert [row[6] for row in rows] == ["never", "DAMAGED", "DAMAGED"]
    assert "f/gone: its manifest is missing" in texts(contents)


def test_an_empty_store_says_so() -> None:
    assert "/backup: no exports" in texts(StoreContents(store="/backup", exports=()))


def test_a_list_is_one_table_and_a_list_of_one_is_that_one() -> None:
    several = Listing([stored(1), stored(2)])
    assert len(html_of(several).findall("table/tbody/tr")) == 2
    assert several == [stored(1), stored(2)]
    one = Listing([StoreContents(store="/backup", exports=(stored(),))])
    assert texts(one) == texts(one[0])
    assert "0 in all" in texts(Listing([]))


def test_a_cleanup_and_a_fleet_show_themselves() -> None:
    cleanup = CleanupResult(
        store="/backup", dry_run=False, plan={"items": (), "freed_bytes": 0, "kept_bytes": 0}, failed=("x: in use",)
    )
    assert "x: in use" in texts(cleanup)
    member = FleetMember(vm=VM, outcome=FleetOutcome.FAILED, message="no space")
    fleet = FleetResult(dry_run=False, members=(member,), redo="hyperexport --vm x", seconds=1)
    assert "no space" in texts(fleet)
    assert "hyperexport --vm x" in printed(fleet)


def test_a_check_shows_what_would_fail() -> None:
    finding = SetupFinding(what="store /backup", level=Level.FAIL, words="it is full", fix="Make room")
    assert "it is full" in texts(SetupReport(findings=(finding,)))


@pytest.mark.parametrize(
    "value",
    [
        a_plan(VM.model_copy(update={"path": HOSTILE}), reason=HOSTILE),
        StoreContents(
            store=HOSTILE, exports=(stored(vm=VM.model_copy(update={"path": HOSTILE})),), damaged=(HOSTILE_DAMAGE,)
        ),
        Listing([stored(vm=VM.model_copy(update={"name": HOSTILE})), stored()]),
    ],
    ids=["plan", "store", "list"],
)
def test_a_hostile_name_is_only_text(value) -> None:
    assert HOSTILE.replace("\x1b", r"\x1b") in texts(value)
    assert "<script" not in value._repr_html_()
    assert "[red]" in printed(value)
    assert "\x1b" not in printed(value)


def test_a_value_that_nobody_registered_is_shown_as_ever() -> None:
    assert pages_of(VM) == ()
    assert VM._repr_html_() is None
    assert printed(VM).startswith("VmRef(")


def test_a_verification_is_a_row() -> None:
    found = Verification(files=1, bytes_read=1, findings=(), seconds=0, protection="sha256")
    shown = texts(Listing([VerifiedExport(location="/backup/a", verification=found)]))
    assert "/backup/a" in shown
    assert "verified" in shown


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_does_not_break_the_id_that_a_command_takes(width: int):
    export = stored()
    terminal = io.StringIO()
    contents = StoreContents(store="exports", exports=(export,), drilled={str(export): export.manifest.started})
    Console(width=width, file=terminal).print(contents)
    assert any(short_id(str(export)) in line.split() for line in terminal.getvalue().splitlines())
