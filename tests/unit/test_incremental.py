"""What is transferred and why: a disk is reused on proof alone."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import GIB, MIB
from hyperexport.errors import NothingToExport
from hyperexport.model.manifest import ExportKind, ExportManifest
from hyperexport.model.vm import BackingFile, DiskInfo
from hyperexport.policy.export_plan import Decision, ExportPlan
from hyperexport.policy.incremental import ChangeEvidence, full_reason, plan_export, questions
from tests.examples import NOW, VM, a_disk, a_disk_file, an_export

DISKS = (a_disk(0), a_disk(1))
UNCHANGED = ChangeEvidence(changed_bytes=0)
CHANGED = ChangeEvidence(changed_bytes=3 * MIB, areas=tuple((at * MIB, MIB // 4) for at in range(12)))


def why_full(*, disks: tuple[DiskInfo, ...] = DISKS, **changes: Any) -> str | None:
    given: dict[str, Any] = {
        "base": an_export(),
        "wanted": True,
        "force_full": False,
        "full_after": timedelta(days=30),
        "now": NOW,
        **changes,
    }
    return full_reason(disks, **given)


def plan(
    evidence: dict[int, ChangeEvidence],
    *,
    disks: tuple[DiskInfo, ...] = DISKS,
    base: ExportManifest | None = None,
    undecided: bool = False,
) -> ExportPlan:
    return plan_export(VM, disks, base=base or an_export(), full=None, evidence=evidence, undecided=undecided)


# -- full or incremental ----------------------------------------------------------------------------------------------


def test_a_young_base_with_the_same_disks_can_be_built_on() -> None:
    assert why_full() is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wanted": False}, "--incremental was not asked for"),
        ({"force_full": True}, "--force-full was given"),
        ({"base": None}, "this is the first export of the VM in this store"),
        ({"base": None, "base_problem": "db01-disk-0.vmdk is missing"}, "db01-disk-0.vmdk is missing"),
        ({"base": an_export(damage=("db01-disk-0.vmdk differs at 512",))}, "differs at 512"),
        ({"disks": (*DISKS, a_disk(2))}, "disk added: Hard disk 3"),
        ({"disks": DISKS[:1]}, "disk removed: Hard disk 2"),
        ({"disks": (DISKS[0], a_disk(1, capacity=32 * GIB))}, "Hard disk 2 from 16.0 GB to 32.0 GB"),
        ({"disks": (DISKS[0], a_disk(1, backing_uuid="other"))}, "disk replaced: Hard disk 2"),
        ({"disks": (DISKS[0], a_disk(1, unexportable="it is independent"))}, "disk removed: Hard disk 2"),
        ({"base": an_export(age=timedelta(days=31))}, "the last full export is 31d old, and --full-after is 30d"),
        ({"base": an_export(age=timedelta(days=30))}, "30d old"),
        ({"base": an_export(age=-timedelta(days=40))}, "dated 40d in the future"),
        ({"base": an_export(age=-timedelta(days=2))}, "dated 2d in the future, so its age is not known"),
        ({"base": an_export(age=-timedelta(minutes=11))}, "in the future, so its age is not known"),
        ({"full_after": timedelta(0)}, "--full-after is 0s"),
    ],
)
def test_an_export_is_full_and_says_why(changes: dict[str, Any], reason: str) -> None:
    assert reason in (why_full(**changes) or "None at all")


def test_a_last_full_export_within_the_tolerance_of_two_clocks_is_current() -> None:
    assert why_full(base=an_export(age=-timedelta(minutes=9))) is None


def test_the_age_that_counts_is_that_of_the_last_full_export_not_of_the_base() -> None:
    old = an_export(age=timedelta(days=40))
    base = an_export(kind=ExportKind.INCREMENTAL, base=old.export_id, last_full=old.export_id)
    assert "40d old" in (why_full(base=base) or "")


def test_every_change_of_the_disks_is_told_at_once() -> None:
    reason = why_full(disks=(a_disk(0, capacity=GIB), a_disk(2)))
    assert reason == (
        "disk added: Hard disk 3; disk removed: Hard disk 2; disk resized: Hard disk 1 from 16.0 GB to 1.0 GB"
    )


def test_a_full_export_transfers_every_disk_for_the_one_reason() -> None:
    made = plan_export(VM, DISKS, base=an_export(), full="--force-full was given", evidence={2000: UNCHANGED})
    assert made.kind is ExportKind.FULL
    assert made.base is None
    assert made.last_full is None
    assert {(disk.decision, disk.reason) for disk in made.disks} == {(Decision.TRANSFER, "--force-full was given")}


# -- what to ask ------------------------------------------------------------------------------------------------------


def test_change_tracking_is_asked_since_the_change_id_of_the_base() -> None:
    assert questions(DISKS, an_export()) == {2000: "52 de c0 d0/7", 2001: "52 de c0 d1/7"}


DOUBTFUL = [
    ({"change_id": None}, {}, "change tracking is off on this disk"),
    ({}, {"change_id": None}, "was off on this disk at the base"),
    ({"change_id": "99 99/9"}, {}, "another series"),
    ({"change_id": "no-sequence"}, {"change_id": "no-sequence"}, "another series"),
    ({"change_id": "52 de c0 d0/6"}, {}, "reverting to a snapshot"),
    ({"backing_uuid": None}, {}, "no UUID"),
    ({}, {"backing_uuid": None}, "no UUID"),
    ({"backing_uuid": None}, {"backing_uuid": None}, "no UUID"),
    ({"backing_uuid": "another"}, {}, "not the disk of the base"),
    ({"capacity": GIB}, {}, "resized"),
    ({"key": 2009}, {}, "does not have this disk"),
]


@pytest.mark.parametrize(("disk", "entry", "reason"), DOUBTFUL)
def test_a_doubtful_disk_is_not_asked_about_and_transferred_whatever_the_answer(
    disk: dict[str, Any], entry: dict[str, Any], reason: str
) -> None:
    disks = (a_disk(0, **disk), a_disk(1))
    base = an_export(files=(a_disk_file(0, **entry), a_disk_file(1)))
    assert list(questions(disks, base)) == [2001]
    proof = dict.fromkeys((disks[0].key, 2001), UNCHANGED)
    doubtful, sure = plan(proof, disks=disks, base=base).disks
    assert doubtful.decision is Decision.TRANSFER
    assert reason in doubtful.reason
    assert sure.decision is Decision.REUSE


def test_a_change_id_that_stayed_the_same_is_asked_about_like_any_other() -> None:
    disk = a_disk(0, change_id=a_disk_file(0).change_id)
    assert list(questions((disk,), an_export())) == [2000]


def test_nothing_is_asked_about_a_disk_that_cannot_be_exported() -> None:
    assert questions((a_disk(0, unexportable="it is independent"),), an_export()) == {}


# -- disk by disk -----------------------------------------------------------------------------------------------------


def test_a_disk_without_changes_is_reused_and_the_other_transferred() -> None:
    made = plan({2000: UNCHANGED, 2001: CHANGED})
    assert made.kind is ExportKind.INCREMENTAL
    assert made.base == an_export().export_id
    assert made.last_full == an_export().last_full
    assert "1 of 2 disks unchanged" in made.reason
    assert [disk.label for disk in made.to_reuse] == ["Hard disk 1"]
    assert [(disk.label, disk.reason) for disk in made.to_transfer] == [
        ("Hard disk 2", "3.0 MB changed in 12 areas"),
    ]
    assert made.to_reuse[0].base_entry == a_disk_file(0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "gave no answer"),
        (ChangeEvidence(), "gave no answer"),
        (ChangeEvidence(problem="the map is missing"), "the map is missing"),
        (ChangeEvidence(changed_bytes=0, problem="the pages do not reach the end"), "the pages do not reach the end"),
        (ChangeEvidence(changed_bytes=1), "1 B changed"),
        (ChangeEvidence(changed_bytes=512, areas=((0, 512),)), "512 B changed in 1 area"),
    ],
)
def test_anything_but_a_proof_is_a_transfer(answer: ChangeEvidence | None, reason: str) -> None:
    evidence = {2001: UNCHANGED} | ({2000: answer} if answer else {})
    disk = plan(evidence).disks[0]
    assert disk.decision is Decision.TRANSFER
    assert reason in disk.reason


EVERYTHING_IS_TRANSFERRED = [
    pytest.param(DISKS, {2000: CHANGED, 2001: CHANGED}, id="every disk changed"),
    pytest.param((a_disk(0, change_id=None), a_disk(1, change_id=None)), {}, id="change tracking is off"),
    pytest.param(DISKS, {2000: ChangeEvidence(problem="FileFault"), 2001: CHANGED}, id="change tracking fails"),
    pytest.param((a_disk(0, change_id="99 99/9"), a_disk(1, change_id=None)), {}, id="another series"),
]


@pytest.mark.parametrize(("disks", "evidence"), EVERYTHING_IS_TRANSFERRED)
def test_an_incremental_export_that_transfers_every_disk_names_its_base_and_is_not_full(
    disks: tuple[DiskInfo, ...], evidence: dict[int, ChangeEvidence]
) -> None:
    full = an_export(age=timedelta(days=20))
    base = an_export(kind=ExportKind.INCREMENTAL, base=full.export_id, last_full=full.export_id)
    made = plan(evidence, disks=disks, base=base)
    assert made.kind is ExportKind.INCREMENTAL
    assert (made.base, made.last_full) == (base.export_id, full.export_id)
    assert {disk.decision for disk in made.disks} == {Decision.TRANSFER}
    assert "every disk changed since then or cannot be proved unchanged" in made.reason
    assert made.saved_percent == 0


def test_exports_that_transfer_everything_do_not_put_off_the_next_full_one() -> None:
    full = an_export(age=timedelta(days=31))
    base = an_export(kind=ExportKind.INCREMENTAL, base=full.export_id, last_full=full.export_id)
    assert "31d old" in (why_full(base=base) or "")


def test_a_dry_run_of_a_running_vm_leaves_open_what_only_a_snapshot_can_tell() -> None:
    made = plan({}, disks=(a_disk(0), a_disk(1, change_id=None)), undecided=True)
    assert [disk.decision for disk in made.disks] == [Decision.UNDECIDED, Decision.TRANSFER]
    assert made.kind is ExportKind.INCREMENTAL
    assert "1 of 2 disks to be decided" in made.reason
    assert made.saved_bytes == 0
    assert made.transfer_bytes == 200 * MIB


def test_files_are_numbered_over_the_disks_that_can_be_exported() -> None:
    made = plan_export(
        VM,
        (a_disk(0), a_disk(1, unexportable="it is independent"), a_disk(2)),
        base=None,
        full="first",
        evidence={},
    )
    assert [disk.file_name for disk in made.disks] == ["db01-disk-0.vmdk", "", "db01-disk-1.vmdk"]
    assert [(disk.key, disk.reason) for disk in made.skipped] == [(2001, "it is independent")]
    assert made.disks[1].decision is Decision.SKIP
    assert made.disks[1].expected_bytes == 0


@pytest.mark.parametrize(
    ("disks", "reason"),
    [((), "it has no disks"), ((a_disk(0, unexportable="it is a raw device"),), "Hard disk 1: it is a raw device")],
)
def test_a_vm_without_a_disk_to_export_is_refused(disks: tuple[DiskInfo, ...], reason: str) -> None:
    with pytest.raises(NothingToExport, match=reason):
        plan_export(VM, disks, base=None, full="first", evidence={})


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disk", "base", "expected"),
    [
        (a_disk(0), an_export(), 100 * MIB),
        (a_disk(0, capacity=32 * GIB), an_export(), 4 * GIB),
        (a_disk(0), None, 4 * GIB),
        (a_disk(0, used=None), None, 16 * GIB),
        (a_disk(0, used=0), None, 0),
    ],
)
def test_a_stream_is_expected_to_be_as_the_base_had_it_or_as_much_as_is_used(
    disk: DiskInfo, base: ExportManifest | None, expected: int
) -> None:
    assert plan_export(VM, (disk,), base=base, full="why", evidence={}).disks[0].expected_bytes == expected


def test_the_saving_is_told_in_bytes_and_per_cent() -> None:
    base = an_export(files=(a_disk_file(0, size=75 * MIB), a_disk_file(1, size=25 * MIB)))
    made = plan({2000: UNCHANGED, 2001: CHANGED}, base=base)
    assert (made.saved_bytes, made.transfer_bytes) == (75 * MIB, 25 * MIB)
    assert made.saved_percent == 75.0
    assert made.disks[1].changed_bytes == 3 * MIB


def test_a_plan_of_empty_disks_saves_nothing_and_divides_by_nothing() -> None:
    assert plan_export(VM, (a_disk(0, used=0),), base=None, full="why", evidence={}).saved_percent == 0.0


def test_a_plan_survives_being_stored_as_json() -> None:
    made = plan({2000: UNCHANGED, 2001: CHANGED})
    assert ExportPlan.model_validate_json(made.model_dump_json()).model_dump() == made.model_dump()


# -- for whatever the server says -------------------------------------------------------------------------------------

_uuids = st.sampled_from([None, "6000C290", "6000C291"])
_changes = st.sampled_from([None, "", "/", "a/1", "a/2", "b/1", "b/2", "a", "b/x"])
_answers = st.one_of(
    st.none(),
    st.builds(
        ChangeEvidence,
        changed_bytes=st.one_of(st.none(), st.integers(0, 2)),
        problem=st.sampled_from([None, "it failed"]),
    ),
)


@settings(deadline=None)
@given(
    uuid=_uuids,
    uuid_before=_uuids,
    change=_changes,
    change_before=_changes,
    capacity=st.sampled_from([GIB, 2 * GIB]),
    answer=_answers,
    full=st.booleans(),
    undecided=st.booleans(),
)
def test_a_disk_is_never_reused_without_proof(
    *,
    uuid: str | None,
    uuid_before: str | None,
    change: str | None,
    change_before: str | None,
    capacity: int,
    answer: ChangeEvidence | None,
    full: bool,
    undecided: bool,
) -> None:
    disk = a_disk(0, backing_uuid=uuid, change_id=change, capacity=capacity)
    before = a_disk_file(0, backing_uuid=uuid_before, change_id=change_before, capacity=GIB)
    base = an_export(files=(before,))
    made = plan_export(
        VM,
        (disk,),
        base=base,
        full="asked for" if full else None,
        evidence={2000: answer} if answer else {},
        undecided=undecided,
    )
    proven = (
        answer is not None
        and answer.changed_bytes == 0
        and answer.problem is None
        and uuid == uuid_before
        and uuid is not None
        and capacity == GIB
        and (change, change_before)
        in {("a/1", "a/1"), ("a/2", "a/1"), ("a/2", "a/2")}
        | {("b/1", "b/1"), ("b/2", "b/1"), ("b/2", "b/2"), ("b/x", "b/x")}
        | {("b/x", "b/1"), ("b/x", "b/2"), ("b/1", "b/x"), ("b/2", "b/x")}
    )
    assert bool(made.to_reuse) == (proven and not full and not undecided)
    assert (2000 in questions((disk,), base)) >= bool(made.to_reuse)


# -- without change tracking -------------------------------------------------------------------------------------------

FILES = (BackingFile(path="[ds] db01/db01-flat.vmdk", size=9, modified=NOW),)


@pytest.mark.parametrize(
    ("now", "before", "decision"),
    [
        ({}, {}, Decision.REUSE),
        ({"backing_files": ()}, {"backing_files": ()}, Decision.TRANSFER),
        ({"backing_files": ()}, {}, Decision.TRANSFER),
        ({"backing_files": (FILES[0].model_copy(update={"size": 10}),)}, {}, Decision.TRANSFER),
        ({"content_id": "other"}, {}, Decision.TRANSFER),
        ({"content_id": None}, {"content_id": None}, Decision.TRANSFER),
        ({"backing_uuid": None}, {"backing_uuid": None}, Decision.TRANSFER),
    ],
)
def test_without_change_tracking_only_equal_files_of_a_vm_that_is_off_are_proof(now, before, decision) -> None:
    known = {"change_id": None, "content_id": "c", "backing_files": FILES}
    disk = a_disk(0, **{**known, **now})
    base = an_export(files=(a_disk_file(0, **{**known, **before}),))
    plan = plan_export(VM, [disk], base=base, full=None, evidence={})
    assert plan.disks[0].decision is decision


def test_equal_files_do_not_outweigh_a_change_that_change_tracking_knows_of() -> None:
    known = {"content_id": "c", "backing_files": FILES}
    base = an_export(files=(a_disk_file(0, **known),))
    evidence = {2000: ChangeEvidence(changed_bytes=5, areas=((0, 5),))}
    plan = plan_export(VM, [a_disk(0, **known)], base=base, full=None, evidence=evidence)
    assert plan.disks[0].decision is Decision.TRANSFER
