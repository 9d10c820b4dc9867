"""What a run says of itself: the reasons and figures are there, and no name can break the page."""

import re
import shlex
import subprocess
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperexport.base.display import pages_of
from hyperexport.base.units import MIB
from hyperexport.model.manifest import ExportManifest, Quiescing, SkippedDisk, SnapshotRecord, TransferStatistics
from hyperexport.model.vm import NicInfo, PowerState, SnapshotInfo, VmInfo
from hyperexport.policy.export_plan import ExportPlan
from hyperexport.policy.incremental import ChangeEvidence, plan_export
from hyperexport.policy.retention import CleanupLimits, plan_cleanup
from hyperexport.results import CleanupResult, ExportResult
from hyperexport.verify.findings import Finding, Verification
from hyperexport.views.exports import export_markdown
from hyperexport.views.markdown import code, table, text
from hyperexport.views.pages import markdown_of
from tests.examples import NOW, VM, a_disk, a_disk_file, an_export
from tests.pages import row

SNAPSHOT = SnapshotRecord(name="hyperexport-1", moref="snapshot-1", created=NOW, quiescing=Quiescing.FILESYSTEM)
MOVED = TransferStatistics(seconds=10, bytes_transferred=100 * MIB, bytes_reused=100 * MIB)


def a_plan(**changes: Any) -> ExportPlan:
    """An incremental plan: the first disk unchanged, the second not, the third not exportable."""
    evidence = {2000: ChangeEvidence(changed_bytes=0), 2001: ChangeEvidence(changed_bytes=3 * MIB)}
    disks = (a_disk(0), a_disk(1), a_disk(2, unexportable="it is independent"))
    return plan_export(VM, disks, **{"base": an_export(), "full": None, "evidence": evidence, **changes})


def a_manifest(**changes: Any) -> ExportManifest:
    plan = a_plan()
    base = {"kind": plan.kind, "reason": plan.reason, "base": plan.base, "snapshot": SNAPSHOT, "transfer": MOVED}
    return an_export(age=timedelta(0), **{**base, **changes})


def a_result(**changes: Any) -> ExportResult:
    values: dict[str, Any] = {
        "dry_run": False,
        "plan": a_plan(),
        "manifest": a_manifest(),
        "locations": ("/backups/db01.4f0e7a52/1", "s3://bucket/db01.4f0e7a52/1"),
        "seconds": 63.0,
    }
    return ExportResult(**{**values, **changes})


def test_the_closing_page_says_what_was_exported_why_and_how_fast() -> None:
    page = export_markdown(a_result())
    assert page.startswith("# Exported /DC0/vm/production/db01 in 1m03s\n")
    assert "1 of 2 disks unchanged" in row(page, "Kind")[1]
    assert row(page, "Transferred")[1] == "100.0 MB, 10.0 MB/s"
    assert row(page, "Saved")[1] == "100.0 MB (50 %)"
    assert row(page, "Consistency")[1] == "filesystem quiesced, by snapshot hyperexport-1 (only for this export)"
    assert "- **Destination:** /backups/db01.4f0e7a52/1\n- **Destination:** s3://bucket/db01.4f0e7a52/1\n" in page


def test_every_disk_has_its_decision_its_reason_and_its_size() -> None:
    manifest = a_manifest(files=(a_disk_file(0, stored_in=an_export().export_id), a_disk_file(1, size=7 * MIB)))
    page = export_markdown(a_result(manifest=manifest))
    where = f"db01-disk-0.vmdk (in {an_export().export_id})"
    unchanged = "change tracking proves that nothing changed since the base export"
    assert row(page, "Hard disk 1")[1:] == ["unchanged, reused", "16.0 GB", "100.0 MB"]
    assert f"- Hard disk 1: Why: {unchanged}, File: {where}\n" in page
    assert row(page, "Hard disk 2")[1:] == ["transferred", "16.0 GB", "7.0 MB"]
    why = "3.0 MB changed; stored whole: --max-chain 0 allows no deltas"
    assert f"- Hard disk 2: Why: {why}, File: db01-disk-1.vmdk\n" in page
    assert row(page, "Hard disk 3")[1:] == ["skipped", "16.0 GB", "-"]
    assert "- Hard disk 3: Why: it is independent\n" in page


def test_a_full_export_claims_no_saving() -> None:
    manifest = a_manifest(transfer=MOVED.model_copy(update={"bytes_reused": 0}))
    page = export_markdown(a_result(plan=a_plan(full="--force-full was given"), manifest=manifest))
    assert row(page, "Saved")[1] == "nothing, as every disk was transferred"


def test_the_limit_of_the_rate_is_told_where_there_was_one() -> None:
    manifest = a_manifest(transfer=MOVED.model_copy(update={"limit": 20.0 * MIB}))
    assert row(export_markdown(a_result(manifest=manifest)), "Transferred")[1].endswith("(limit 20.0 MB/s)")


def test_what_became_of_the_bandwidth_is_told() -> None:
    rates = {"limit": 20.0 * MIB, "limit_mean": 15.0 * MIB, "limit_lowest": 2.0 * MIB, "achieved": 14.5 * MIB}
    moved = MOVED.model_copy(update={**rates, "throttle_wait": 12.5, "shared": "wan"})
    assert row(export_markdown(a_result(manifest=a_manifest(transfer=moved))), "Bandwidth")[1] == (
        "asked 20.0 MB/s; allowed 15.0 MB/s, at the least 2.0 MB/s; achieved 14.5 MB/s both ways together; "
        "waited 12.5 s; shared as wan"
    )
    assert "| Bandwidth |" not in export_markdown(a_result())


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "hyperexport verify /backups/db01.4f0e7a52/1"),
        ({"snapshot_kept": True}, "Snapshot hyperexport-1 is still on the VM"),
        (
            {"manifest": a_manifest(skipped_disks=(SkippedDisk(key=1, label="Hard disk 3", reason="raw"),))},
            "lacks Hard disk 3",
        ),
        ({"manifest": a_manifest(transfer=MOVED.model_copy(update={"retries": 3}))}, "3 transfers were retried"),
        (
            {
                "manifest": a_manifest(
                    snapshot=SNAPSHOT.model_copy(update={"quiescing": Quiescing.CRASH_CONSISTENT}),
                )
            },
            "was not quiesced",
        ),
    ],
)
def test_the_page_ends_with_what_to_look_at(changes: dict[str, Any], advice: str) -> None:
    page = export_markdown(a_result(**changes))
    assert advice in page.partition("## What to look at")[2]


def a_verification(*findings: Finding) -> Verification:
    return Verification(files=4, bytes_read=MIB, findings=findings, seconds=1, protection="SHA-256 of every byte")


def test_a_proven_export_says_so_and_asks_for_no_proof() -> None:
    page = export_markdown(a_result(verifications=(a_verification(), a_verification())))
    assert row(page, "Verified")[1] == "yes, read back and proved"
    assert "hyperexport verify" not in page
    assert "## Damage" not in page


def test_damage_names_the_place_the_file_and_the_offset() -> None:
    wrong = Finding(file="db01-disk-1.vmdk", offset=512, problem="the grain at 512 does not inflate")
    page = export_markdown(a_result(verifications=(a_verification(), a_verification(wrong))))
    assert row(page, "Verified")[1] == "DAMAGED"
    place = "s3://bucket/db01.4f0e7a52/1"
    assert f"## Damage\n\n- {place}: db01-disk-1.vmdk: the grain at 512 does not inflate" in page
    assert "Export the VM again" in page


def test_warnings_are_listed_and_their_section_is_absent_without_any() -> None:
    assert "## Warnings\n\n- the tools do not run\n" in export_markdown(a_result(warnings=("the tools do not run",)))
    assert "## Warnings" not in export_markdown(a_result())


def test_a_dry_run_says_would_and_at_most_and_where() -> None:
    page = export_markdown(a_result(manifest=None, dry_run=True, plan=a_plan(evidence={}, undecided=True)))
    assert page.startswith("# Would export /DC0/vm/production/db01: ")
    assert "at most 200.0 MB to transfer" in page
    assert "## Where it would be stored\n\n- /backups" in page
    assert "Exported" not in page


def test_a_plan_says_its_kind_and_why() -> None:
    full = markdown_of(a_plan(full="the last full export is 31d old, and --full-after is 30d"))
    assert ": full, the last full export is 31d old, and --full-after is 30d\n" in full
    incremental = markdown_of(a_plan())
    assert f": incremental, builds on {an_export().export_id}, 1 of 2 disks unchanged\n" in incremental
    assert "100.0 MB to transfer, 100.0 MB saved (50 %)\n" in incremental


def a_cleanup(**changes: Any) -> CleanupResult:
    exports = [("db01.4f0e7a52", an_export(age=timedelta(days=day))) for day in (1, 40, 50)]
    plan = plan_cleanup(exports, CleanupLimits(max_age=timedelta(days=30)), now=NOW, free_bytes=None)
    gone = tuple(str(item) for item in plan.to_delete)
    return CleanupResult(**{"store": "/backups", "dry_run": False, "plan": plan, "deleted": gone, **changes})


def test_a_cleanup_says_what_was_deleted_and_why_the_rest_stays() -> None:
    page = markdown_of(a_cleanup())
    assert "2 of 3 exports deleted" in page
    assert page.count("| deleted |") == 2
    assert page.count("Why: 50d old, over --cleanup-max-age 30d\n") == 1
    assert "## Kept" in page
    assert page.count("Why: the newest export of its VM\n") == 1
    assert "would" not in page


def test_a_dry_run_of_a_cleanup_says_would_of_the_same_exports() -> None:
    page = markdown_of(a_cleanup(dry_run=True, deleted=()))
    assert "2 of 3 exports would be deleted" in page
    assert page.count("| would delete |") == 2
    assert page.count("Why: 50d old, over --cleanup-max-age 30d\n") == 1
    assert "| deleted |" not in page


def test_what_could_not_be_deleted_is_not_counted_as_deleted() -> None:
    whole = a_cleanup()
    first, second = whole.deleted
    page = markdown_of(a_cleanup(deleted=(second,), failed=(f"{first}: permission denied",)))
    assert "1 of 3 exports deleted, 0 B freed\n" in page
    assert "| NOT DELETED |" in page
    assert f"## Could not be deleted\n\n- {first}: permission denied" in page


def test_a_cleanup_reports_limits_out_of_reach_and_what_dead_runs_left() -> None:
    exports = [("db01.4f0e7a52", an_export(age=timedelta(days=50)))]
    plan = plan_cleanup(exports, CleanupLimits(max_age=timedelta(days=30)), now=NOW, free_bytes=None)
    page = markdown_of(a_cleanup(plan=plan, deleted=(), abandoned=("db01.4f0e7a52/x",)))
    assert "## Limits that cannot be met\n\n- --cleanup-max-age 30d: 1 export beyond it stays" in page
    assert "## Half-written exports of dead runs, removed\n\n- db01.4f0e7a52/x" in page


def test_the_page_of_an_export_ends_with_its_cleanups() -> None:
    assert "# Cleanup of /backups" in export_markdown(a_result(cleanups=(a_cleanup(),)))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("my_vm_1", r"my\_vm\_1"),
        ("a\nb\tc", "a b c"),
        ("`x` [y](z)", r"\`x\` \[y\](z)"),
        ("back\\slash", r"back\\slash"),
        ("&lt;", r"\&lt;"),
    ],
)
def test_no_name_can_break_the_page(name: str, shown: str) -> None:
    assert text(name) == shown
    assert table(("N",), [(name,)])[2] == f"| {shown} |"
    evil = VM.model_copy(update={"name": name, "path": f"/DC0/vm/{name}"})
    page = markdown_of(plan_export(evil, (a_disk(0, label=name),), base=None, full=name, evidence={}))
    assert page.startswith(f"# Would export /DC0/vm/{shown}: full, {shown}\n")
    assert row(page, shown)[1:3] == ["transfer", shown]


def test_a_vm_is_a_page_of_facts_disks_adapters_and_snapshots() -> None:
    vm = VmInfo(
        ref=VM,
        power_state=PowerState.ON,
        guest_os="Debian",
        cpus=4,
        memory_mb=8192,
        hardware_version="vmx-19",
        firmware="efi",
        tools_status="guestToolsRunning",
        provisioned=32 * 1024 * MIB,
        used=8 * 1024 * MIB,
        change_tracking=True,
        change_tracking_supported=True,
        consolidation_needed=False,
        template=False,
        encrypted=False,
        host=None,
        datastores=("ds1", "ds2"),
        disks=(a_disk(0, thin=True), a_disk(1, change_id=None, used=None, unexportable="it is independent")),
        nics=(NicInfo(label="Network adapter 1", type="Vmxnet3", network="VLAN 7", mac="00:50:56:00:00:01"),),
        snapshots=(SnapshotInfo(moref="s", name="before", created=NOW),),
    )
    (page,) = pages_of(vm)
    facts, disks, adapters, snapshots = page.tables
    rows = {row[0]: row[1] for row in facts.rows}
    assert page.title == rows["Path"] == "/DC0/vm/production/db01"
    assert rows["Power state"] == "poweredOn"
    assert rows["Used"] == "8.0 GB of 32.0 GB provisioned"
    assert rows["Change tracking"] == "yes"
    assert rows["Host"] == "-"
    assert disks.rows[0][:4] == ("Hard disk 1", "16.0 GB", "4.0 GB", "yes")
    assert disks.rows[1][0] == "Hard disk 2 (cannot be exported: it is independent)"
    assert disks.rows[1][-1] == "no"
    assert adapters.rows == (("Network adapter 1", "Vmxnet3", "VLAN 7", "00:50:56:00:00:01", "no"),)
    assert snapshots.rows[0][:2] == ("before", "2026-11-23 06:00 UTC")
    assert "| Power state | poweredOn |" in markdown_of(vm)


WORDS = st.text("abc<_.-/", min_size=1, max_size=9)
CELLS = st.lists(WORDS, max_size=9).map(" ".join)


@given(st.lists(st.tuples(WORDS, CELLS, WORDS, CELLS, WORDS, WORDS), min_size=1, max_size=4))
def test_a_table_is_no_wider_than_prefects_pages_and_loses_nothing(rows: list[tuple[str, ...]]) -> None:
    page = table(("VM", "Why", "Kind", "Message", "Size", "Age"), rows)
    shown = [re.sub(r"\\(.)", r"\1", line) for line in page]
    assert all(len(line) <= 84 for line in shown if line.startswith("| "))
    assert all(any(cell in line for line in shown) for cells in rows for cell in cells), shown


def test_a_long_command_is_shown_on_lines_that_a_shell_joins() -> None:
    words = ["hyperexport", "--vm", "a vm's  name", *(f"--option-{number}=value" for number in range(9))]
    fence, *lines, end, _ = code(shlex.join(words))
    assert fence == end == "```"
    assert max(map(len, lines)) <= 60
    said = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == words
