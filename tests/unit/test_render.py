"""Answers: exact lines for scripts, one document for programs, tables that a person can read and grep can search."""

import hashlib
import io
import json
import re
from datetime import timedelta

import pytest
from rich.console import Console

from hyperexport.base.units import MIB
from hyperexport.cli.output import Output, OutputFormat, pair_lines, show
from hyperexport.model.manifest import ExportKind, Quiescing, SnapshotRecord, TransferStatistics
from hyperexport.model.vm import NicInfo, PowerState, SnapshotInfo, VmInfo
from hyperexport.policy.export_plan import Decision, DiskPlan, ExportPlan
from hyperexport.policy.retention import CleanupLimits, plan_cleanup
from hyperexport.results import CleanupResult, ExportResult
from hyperexport.store.base import StoredExport
from hyperexport.store.contents import StoreContents
from tests.examples import NOW, VM, a_disk, an_export

FOLDER = "db01.4f0e7a52"


def a_vm(**changes: object) -> VmInfo:
    values = {
        "ref": VM,
        "power_state": PowerState.OFF,
        "guest_os": "Ubuntu Linux (64-bit)",
        "cpus": 4,
        "memory_mb": 8192,
        "hardware_version": "vmx-19",
        "firmware": "efi",
        "tools_status": "guestToolsRunning",
        "provisioned": 20 * MIB,
        "used": 10 * MIB,
        "change_tracking": True,
        "change_tracking_supported": True,
        "consolidation_needed": False,
        "template": False,
        "encrypted": False,
        "host": "esx-01",
        "datastores": ("datastore1",),
        "disks": (a_disk(0), a_disk(1)),
        "nics": (NicInfo(label="Network adapter 1", type="Vmxnet3", network="VM Network", mac="00:50:56:00:00:01"),),
        "snapshots": (SnapshotInfo(moref="snapshot-1", name="before", created=NOW, current=True),),
    }
    return VmInfo.model_validate({**values, **changes})


def a_plan(**changes: object) -> ExportPlan:
    disks = (
        DiskPlan(
            key=2000,
            label="Hard disk 1",
            file_name="db01-disk-0.vmdk",
            capacity=16 * MIB,
            decision=Decision.TRANSFER,
            reason="1.0 MB changed",
            expected_bytes=3 * MIB,
            whole_bytes=3 * MIB,
        ),
        DiskPlan(
            key=2001,
            label="Hard disk 2",
            file_name="db01-disk-1.vmdk",
            capacity=16 * MIB,
            decision=Decision.REUSE,
            reason="nothing changed",
            expected_bytes=1 * MIB,
            whole_bytes=1 * MIB,
        ),
    )
    values = {"vm": VM, "kind": ExportKind.INCREMENTAL, "reason": "builds on x", "base": "x", "disks": disks}
    return ExportPlan.model_validate({**values, **changes})


def an_export_result(**changes: object) -> ExportResult:
    snapshot = SnapshotRecord(name="hx", moref="snapshot-9", created=NOW, quiescing=Quiescing.FILESYSTEM)
    moved = TransferStatistics(seconds=2, bytes_transferred=4 * MIB, bytes_reused=1 * MIB)
    values = {
        "dry_run": False,
        "plan": a_plan(),
        "manifest": an_export(snapshot=snapshot, transfer=moved),
        "locations": ("/exports/db01", "s3://bucket/db01"),
        "warnings": ("the guest could not be quiesced",),
        "seconds": 12.34,
    }
    return ExportResult.model_validate({**values, **changes})


def a_cleanup(*, dry_run: bool, **changes: object) -> CleanupResult:
    exports = [(FOLDER, an_export(age=timedelta(days=age), tail=f"000{age}")) for age in (1, 2, 3)]
    plan = plan_cleanup(exports, CleanupLimits(max_count=1), now=NOW, free_bytes=None)
    return CleanupResult.model_validate({"store": "/exports", "dry_run": dry_run, "plan": plan, **changes})


def drawn(show, *values: object) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=200), *values)
    return stream.getvalue()


# -- key=value ---------------------------------------------------------------------------------------------------------


def test_a_vm_is_exactly_these_lines_in_this_order():
    assert pair_lines(a_vm()) == [
        "name=db01",
        "path=/DC0/vm/production/db01",
        "power_state=poweredOff",
        "guest_os=Ubuntu Linux (64-bit)",
        "cpu=4",
        "memory_mb=8192",
        "storage_bytes=34359738368",
    ]


def test_a_line_stays_one_line_whatever_a_name_holds():
    vm = a_vm(guest_os="Other\nname=forged")
    assert pair_lines(vm)[3] == r"guest_os=Other\nname=forged"


def test_an_export_is_exactly_these_lines_in_this_order():
    assert pair_lines(an_export_result()) == [
        "vm=db01",
        "path=/DC0/vm/production/db01",
        "dry_run=false",
        "export_id=20261122T060000Z-0000",
        "kind=incremental",
        "reason=builds on x",
        "location=/exports/db01",
        "location_2=s3://bucket/db01",
        "bytes_transferred=4194304",
        "bytes_saved=1048576",
        "seconds=12.3",
        "verified=",
        "snapshot_removed=true",
        "warnings=1",
        "bytes_stored=209715200",
    ]


@pytest.mark.parametrize(
    ("changes", "removed"),
    [({}, "true"), ({"snapshot_kept": True}, "false"), ({"manifest": an_export()}, "false")],
)
def test_a_snapshot_counts_as_removed_only_if_there_was_one_and_it_is_gone(changes, removed):
    assert f"snapshot_removed={removed}" in pair_lines(an_export_result(**changes))


def test_a_dry_run_gives_what_is_expected_in_place_of_what_was_done():
    lines = pair_lines(an_export_result(dry_run=True, manifest=None))
    assert {"dry_run=true", "export_id=", "bytes_transferred=3145728", "bytes_saved=1048576"} <= set(lines)


def test_a_plan_says_for_each_disk_what_and_why():
    assert pair_lines(a_plan()) == [
        "vm=db01",
        "path=/DC0/vm/production/db01",
        "kind=incremental",
        "reason=builds on x",
        "base=x",
        "disk_0=Hard disk 1",
        "disk_0_decision=transfer",
        "disk_0_reason=1.0 MB changed",
        "disk_0_bytes=3145728",
        "disk_0_capacity=16777216",
        "disk_0_changed_bytes=",
        "disk_1=Hard disk 2",
        "disk_1_decision=unchanged",
        "disk_1_reason=nothing changed",
        "disk_1_bytes=1048576",
        "disk_1_capacity=16777216",
        "disk_1_changed_bytes=",
        "transfer_bytes=3145728",
        "saved_bytes=1048576",
        "saved_percent=25.0",
    ]


def test_a_cleanup_counts_only_what_is_really_gone():
    gone = f"{FOLDER}/20261120T060000Z-0003"
    lines = pair_lines(a_cleanup(dry_run=False, deleted=(gone,), failed=("other: no permission",)))
    assert lines == [
        "store=/exports",
        "dry_run=false",
        f"deleted={gone}",
        "failed=other: no permission",
        "count=1",
        "failures=1",
        "kept=2",
        "freed_bytes=0",
        "warnings=0",
    ]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_vm_table_has_a_border_and_every_property():
    text = drawn(show, a_vm())
    assert "┌" in text
    for words in (
        "│ Power state     │ ● poweredOff ",
        "8192 MB (8.0 GB)",
        "32.0 GB",
        "/DC0/vm/production/db01",
        "Hard disk 2",
        "Vmxnet3",
        "before (current)",
        "efi",
        "vmx-19",
        "guestToolsRunning",
    ):
        assert words in text


def test_what_cannot_be_exported_is_said_at_the_disk():
    text = drawn(show, a_vm(disks=(a_disk(0, unexportable="a raw device"),)))
    assert "cannot be exported: a raw device" in text


def test_names_are_shown_as_they_are_and_never_read_as_markup():
    vm = a_vm(ref=VM.model_copy(update={"name": "[red]db[/]", "path": "/DC0/vm/[bold]x"}))
    assert "[red]db[/]" in drawn(show, vm)
    assert "/DC0/vm/[bold]x" in drawn(show, a_plan(vm=vm.ref))


def test_the_plan_is_told_in_words():
    text = drawn(show, a_plan())
    assert "Would export /DC0/vm/production/db01: incremental, builds on x" in text
    assert "3.0 MB to transfer, 1.0 MB saved (25 %)" in text


def test_a_dry_run_says_that_nothing_was_changed_and_what_would_be():
    text = drawn(show, an_export_result(dry_run=True, manifest=None, cleanups=(a_cleanup(dry_run=True),)))
    assert "nothing was changed" in text
    assert "Where it would be stored: /exports/db01" in text
    assert re.search(rf"│ {FOLDER}/20261120T060000Z-0003 +│ would delete ", text)


def test_the_summary_says_where_how_fast_what_was_saved_and_what_to_look_at():
    text = drawn(show, an_export_result())
    for words in (
        "s3://bucket/db01",
        "4.0 MB, 2.0 MB/s",
        "1.0 MB (20 %)",
        "snapshot hx (only for this export)",
        "filesystem quiesced",
    ):
        assert words in text
    assert "Warnings: the guest could not be quiesced" in text


def test_a_kept_snapshot_and_an_export_that_needed_none_are_told_apart():
    assert "snapshot hx (kept)" in drawn(show, an_export_result(snapshot_kept=True))
    assert "powered off" in drawn(show, an_export_result(manifest=an_export()))


def test_a_cleanup_says_deleted_only_of_what_is_gone():
    gone = f"{FOLDER}/20261120T060000Z-0003"
    text = drawn(show, a_cleanup(dry_run=False, deleted=(gone,), failed=("other: no permission",)))
    assert "Cleanup of /exports: 1 of 3 exports deleted, 0 B freed\n" in text
    assert re.search(rf"│ {gone} +│ deleted ", text)
    assert text.count("NOT DELETED") == 1
    assert "Could not be deleted: other: no permission" in text
    assert "would" not in text
    assert "newest export" not in text, "what is kept is explained in a dry run, and in Prefect's UI"


def test_a_dry_cleanup_says_would_delete_for_the_same_plan_and_why_the_rest_stays():
    text = drawn(show, a_cleanup(dry_run=True))
    assert "Cleanup of /exports: 2 of 3 exports would be deleted" in text
    assert text.count("│ would delete │") == 2
    assert text.count("│ kept ") == 1


def test_stored_exports_are_listed_and_an_empty_store_says_so():
    stored = StoredExport(folder=FOLDER, manifest=an_export(verified=NOW))
    text = drawn(show, StoreContents(store="/exports", exports=(stored,)))
    assert hashlib.sha256(f"{FOLDER}/20261122T060000Z-0000".encode()).hexdigest()[:8] in text
    assert "2026-11-23" in text
    assert drawn(show, StoreContents(store="/exports", exports=())) == "/exports: no exports\n"


# -- standard output ---------------------------------------------------------------------------------------------------


def answer_twice(output_format: OutputFormat) -> None:
    output = Output(output_format)
    for name in ("a", "b"):
        output.answer(
            "vms", pretty=lambda console, name=name: console.print(f"table {name}"), quiet=["k=1"], document={"n": name}
        )
    output.finish([{"vm": "c", "code": "vm-not-found", "message": "no VM"}])


def test_quiet_blocks_are_separated_by_an_empty_line_and_nothing_else_is_printed(capsys):
    answer_twice(OutputFormat.QUIET)
    assert capsys.readouterr().out == "k=1\n\nk=1\n"


def test_json_is_one_document_with_the_failures_in_it(capsys):
    answer_twice(OutputFormat.JSON)
    assert json.loads(capsys.readouterr().out) == {
        "vms": [{"n": "a"}, {"n": "b"}],
        "errors": [{"vm": "c", "code": "vm-not-found", "message": "no VM"}],
    }


def test_tables_go_to_standard_output_and_no_document_follows(capsys):
    answer_twice(OutputFormat.PRETTY)
    assert capsys.readouterr().out == "table a\ntable b\n"
