"""What a cleanup deletes and why; what it never deletes, whatever the limits."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import MIB
from hyperexport.errors import UsageError
from hyperexport.model.history import identity_of
from hyperexport.model.manifest import ExportManifest, FileEntry, FileRole
from hyperexport.options.groups import Cleanup
from hyperexport.policy.cleanup_candidates import Incoming
from hyperexport.policy.retention import CleanupLimits, CleanupPlan, plan_cleanup
from tests.examples import NOW, VM, a_disk_file, a_hash, an_export

anytime = settings(deadline=None)
"""No test is timed: a busy machine is no finding."""

Listing = list[tuple[str, ExportManifest]]
DB, WEB = "db01.4f0e7a52", "web01.00000001"
WEB_VM = VM.model_copy(
    update={"name": "web01", "moref": "vm-7", "instance_uuid": "00000001-1111-2222-3333-444455556666"}
)


def an_export_of(
    day: int, *, content: str | None = None, size: int = 100, holder: ExportManifest | None = None, **changes: Any
) -> ExportManifest:
    """An export ``day`` days old with one disk of ``size`` MB; its own content, unless named or held elsewhere."""
    if holder:
        disk = holder.disks[0].model_copy(update={"stored_in": holder.export_id})
    else:
        disk = a_disk_file(size=size * MIB, sha256=a_hash(content or f"day {day}"))
    return an_export(age=timedelta(days=day), files=(disk,), **changes)


def cleanup(exports: Sequence[tuple[str, ExportManifest]], *, free: int | None = None, **limits: Any) -> CleanupPlan:
    if "max_age" in limits:
        limits["max_age"] = timedelta(days=limits["max_age"])
    return plan_cleanup(exports, CleanupLimits(**limits), now=NOW, free_bytes=free)


def days(plan: CleanupPlan, *, folder: str = DB) -> list[int]:
    return [(NOW - item.started).days for item in plan.to_delete if item.folder == folder]


def reason(plan: CleanupPlan, day: int) -> str:
    return next(item.reason for item in plan.items if (NOW - item.started).days == day)


COMING = Incoming(folder=DB, identity=identity_of(an_export_of(1)), new_bytes=MIB)


# -- the limits -------------------------------------------------------------------------------------------------------

FIVE: Listing = [(DB, an_export_of(day)) for day in (3, 1, 5, 2, 4)]


def test_without_limits_nothing_is_deleted() -> None:
    plan = cleanup(FIVE)
    assert plan.to_delete == ()
    assert plan.unreachable == ()
    assert plan.kept_bytes == 500 * MIB
    assert {item.reason for item in plan.items if not item.delete} == {
        "the newest export of its VM",
        "within the limits",
    }


def test_an_empty_listing_deletes_nothing() -> None:
    plan = cleanup([], max_age=1, max_count=1, max_size=1, min_free=10**15, free=0)
    assert plan.items == ()
    assert plan.freed_bytes == 0


def test_what_is_older_than_the_age_goes_oldest_first() -> None:
    plan = cleanup(FIVE, max_age=3)
    assert days(plan) == [5, 4]
    assert reason(plan, 5) == "5d old, over --cleanup-max-age 3d"
    assert plan.freed_bytes == 200 * MIB


def test_the_newest_n_of_each_vm_stay() -> None:
    plan = cleanup([*FIVE, (WEB, an_export_of(9, vm=WEB_VM)), (WEB, an_export_of(8, vm=WEB_VM))], max_count=2)
    assert days(plan) == [5, 4, 3]
    assert days(plan, folder=WEB) == []
    assert reason(plan, 5) == "--cleanup-max-count 2: this VM has 4 newer exports"


def test_the_oldest_of_any_vm_go_while_the_store_is_too_large() -> None:
    plan = cleanup([*FIVE, (WEB, an_export_of(9, vm=WEB_VM)), (WEB, an_export_of(8, vm=WEB_VM))], max_size=500 * MIB)
    assert days(plan, folder=WEB) == [9]
    assert days(plan) == [5]
    assert plan.kept_bytes == 500 * MIB


def test_the_oldest_go_until_enough_is_free() -> None:
    plan = cleanup(FIVE, min_free=250 * MIB, free=100 * MIB)
    assert days(plan) == [5, 4]
    assert reason(plan, 5) == "less than --cleanup-min-free 250.0 MB is free"


def test_an_export_goes_if_any_limit_says_so() -> None:
    plan = cleanup(FIVE, max_age=4, max_count=4, max_size=400 * MIB)
    assert days(plan) == [5]
    assert days(cleanup(FIVE, max_age=4, max_count=3, max_size=400 * MIB)) == [5, 4]


def test_age_and_count_go_first_so_that_space_takes_no_more_than_it_must() -> None:
    exports = [*FIVE, (WEB, an_export_of(9, vm=WEB_VM)), (WEB, an_export_of(8, vm=WEB_VM))]
    plan = cleanup(exports, max_count=2, max_size=400 * MIB)
    assert days(plan) == [5, 4, 3]
    assert days(plan, folder=WEB) == []


# -- shared content ---------------------------------------------------------------------------------------------------


def test_a_disk_that_several_exports_share_is_counted_once_and_freed_with_the_last() -> None:
    shared = [(DB, an_export_of(day, content="same")) for day in (1, 2, 3)]
    assert cleanup(shared).kept_bytes == 100 * MIB
    assert cleanup(shared, max_count=1).freed_bytes == 0
    assert days(cleanup(shared, max_size=100 * MIB)) == []


def test_equal_content_of_two_vms_is_kept_twice() -> None:
    assert cleanup(
        [(DB, an_export_of(1, content="same")), (WEB, an_export_of(1, content="same", vm=WEB_VM))]
    ).kept_bytes == (200 * MIB)


def test_small_files_are_each_exports_own() -> None:
    small = FileEntry(name="db01.nvram", role=FileRole.NVRAM, size=MIB, sha256=a_hash("nvram"))
    assert cleanup([(DB, an_export(age=timedelta(days=day), files=(small,))) for day in (1, 2)]).kept_bytes == 2 * MIB


def test_the_members_of_an_ova_are_counted_in_the_ova() -> None:
    ova = FileEntry(name="db01.ova", role=FileRole.OVA, size=101 * MIB, sha256=a_hash("ova"))
    member = a_disk_file(member_of="db01.ova", offset=512)
    assert cleanup([(DB, an_export(files=(ova, member), format="ova"))]).kept_bytes == 101 * MIB


# -- the guards -------------------------------------------------------------------------------------------------------


def test_the_newest_export_of_each_vm_survives_every_limit_and_the_limits_say_so() -> None:
    exports = [(DB, an_export_of(40)), (WEB, an_export_of(50, vm=WEB_VM)), (WEB, an_export_of(60, vm=WEB_VM))]
    plan = cleanup(exports, max_age=1, max_count=1, max_size=1, min_free=10**15, free=0)
    assert days(plan, folder=WEB) == [60]
    assert days(plan) == []
    assert reason(plan, 40) == "the newest export of its VM; otherwise deleted: 40d old, over --cleanup-max-age 1d"
    age, size, free = plan.unreachable
    assert age.startswith("--cleanup-max-age 1d: 2 exports beyond it stay")
    assert size.startswith("--cleanup-max-size 1 B: 200.0 MB remain")
    assert free.startswith("--cleanup-min-free 909.5 TB: only 100.0 MB can become free")


def test_the_newest_export_that_is_not_damaged_survives_too() -> None:
    exports = [(DB, an_export_of(1, damage=("a byte is wrong",))), (DB, an_export_of(2)), (DB, an_export_of(3))]
    plan = cleanup(exports, max_count=1)
    assert days(plan) == [3]
    assert reason(plan, 2).startswith("the newest export of its VM that is not damaged; otherwise deleted: ")


@pytest.mark.parametrize("pattern", ["db01", "db*", "/DC0/vm/production/*", DB, f"{NOW - timedelta(days=2):%Y%m%d}T*"])
def test_what_a_pattern_names_is_preserved(pattern: str) -> None:
    exports = [(DB, an_export_of(1)), (DB, an_export_of(2))]
    plan = cleanup(exports, max_count=1, preserve=("nothing", pattern))
    assert plan.to_delete == ()
    assert reason(plan, 2).startswith(f"preserved by --cleanup-preserve {pattern}; otherwise deleted: ")
    assert plan.unmatched == ("--cleanup-preserve 'nothing' matches no VM and no export: it preserves nothing",)


def test_a_pattern_preserves_whole_names_in_their_own_case_only() -> None:
    exports = [(DB, an_export_of(1)), (DB, an_export_of(2))]
    assert days(cleanup(exports, max_count=1, preserve=("DB01", "db0", "b01"))) == [2]


def test_a_marked_export_is_preserved() -> None:
    plan = cleanup([(DB, an_export_of(1)), (DB, an_export_of(2, preserve=True))], max_count=1)
    assert plan.to_delete == ()
    assert reason(plan, 2).startswith("marked as preserved")


def test_an_export_whose_files_a_kept_one_uses_stays() -> None:
    holder = an_export_of(9)
    plan = cleanup([(DB, holder), (DB, an_export_of(1, holder=holder)), (DB, an_export_of(5))], max_age=3)
    assert days(plan) == [5]
    assert reason(plan, 9).startswith("a newer export that stays uses its files; otherwise deleted: 9d old")
    assert plan.unreachable[0].startswith("--cleanup-max-age 3d: 1 export beyond it stays")


def test_a_chain_of_references_is_followed_to_its_end() -> None:
    first = an_export_of(9)
    second = an_export_of(8, holder=first)
    third = an_export_of(1, holder=second)
    assert days(cleanup([(DB, first), (DB, second), (DB, third)], max_age=3)) == []


def test_an_export_is_deleted_before_the_one_that_it_uses() -> None:
    holder = an_export_of(9)
    plan = cleanup([(DB, holder), (DB, an_export_of(8, holder=holder)), (DB, an_export_of(1))], max_age=3)
    assert days(plan) == [8, 9]
    assert [item.refers_to for item in plan.to_delete] == [(holder.export_id,), ()]
    assert [item.refers_to for item in plan.items if not item.delete] == [()]
    assert plan.freed_bytes == 100 * MIB


def test_space_that_frees_a_reference_lets_an_overdue_export_go_in_the_same_run() -> None:
    holder = an_export_of(9)
    exports = [
        (DB, holder),
        (DB, an_export_of(2, holder=holder)),
        (DB, an_export_of(1)),
        (WEB, an_export_of(1, vm=WEB_VM)),
    ]
    plan = cleanup(exports, max_age=5, max_size=250 * MIB)
    assert days(plan) == [2, 9]


def test_what_the_limits_cannot_reach_is_judged_by_what_is_left() -> None:
    exports = [
        (DB, an_export_of(1, damage=("wrong",))),
        (DB, an_export_of(2, damage=("wrong",))),
        (DB, an_export_of(3, size=0)),
    ]
    plan = cleanup(exports, max_count=2, max_size=100 * MIB)
    assert days(plan) == [2]
    assert reason(plan, 3) == "the newest export of its VM that is not damaged"
    assert plan.unreachable == ()


def test_a_preserved_export_stays_when_nothing_uses_its_files_any_more() -> None:
    holder = an_export_of(9, preserve=True)
    plan = cleanup([(DB, holder), (DB, an_export_of(8, holder=holder)), (DB, an_export_of(1))], max_age=3)
    assert days(plan) == [8]


def test_an_overdue_export_goes_with_the_last_that_used_it_though_the_space_is_enough_by_then() -> None:
    holder = an_export_of(9)
    own = a_disk_file(1, size=200 * MIB, sha256=a_hash("own"))
    user = an_export_of(2, holder=holder)
    user = user.model_copy(update={"files": (*user.files, own)})
    plan = cleanup([(DB, holder), (DB, user), (DB, an_export_of(1))], max_age=5, max_size=250 * MIB)
    assert days(plan) == [2, 9]
    assert reason(plan, 9) == "9d old, over --cleanup-max-age 5d"


def test_a_small_file_that_lies_in_another_export_is_not_counted_again() -> None:
    small = FileEntry(name="db01.nvram", role=FileRole.NVRAM, size=MIB, sha256=a_hash("nvram"))
    first = an_export(age=timedelta(days=2), files=(small,))
    second = an_export(files=(small.model_copy(update={"stored_in": first.export_id}),))
    assert cleanup([(DB, first), (DB, second)]).kept_bytes == MIB


# -- free space -------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_tell_its_free_space_loses_nothing_for_it() -> None:
    plan = cleanup(FIVE, min_free=10**15, free=None)
    assert plan.to_delete == ()
    assert plan.unreachable == ("--cleanup-min-free: this store cannot tell how much is free",)


# -- a dry run of an export with its cleanup --------------------------------------------------------------------------


def test_an_export_that_is_coming_counts_as_the_newest() -> None:
    exports = [(DB, an_export_of(1)), (DB, an_export_of(2))]
    limits = CleanupLimits(max_count=1)
    plan = plan_cleanup(exports, limits, now=NOW, free_bytes=None, incoming=[COMING])
    assert days(plan) == [2, 1]
    assert plan.kept_bytes == MIB


def test_an_export_that_is_coming_takes_space_and_holds_on_to_what_it_will_use() -> None:
    holder = an_export_of(1)
    held = {"shares": holder.disks, "refers_to": (holder.export_id,)}
    coming = COMING.model_copy(update={"new_bytes": 50 * MIB, **held})
    exports = [(DB, holder), (DB, an_export_of(2))]
    limits = CleanupLimits(max_count=1, min_free=100 * MIB)
    plan = plan_cleanup(exports, limits, now=NOW, free_bytes=100 * MIB, incoming=[coming])
    assert days(plan) == [2]
    assert plan.kept_bytes == 150 * MIB
    assert cleanup(exports, min_free=100 * MIB, free=100 * MIB).to_delete == ()
    needy = CleanupLimits(min_free=100 * MIB)
    assert days(plan_cleanup(exports, needy, now=NOW, free_bytes=100 * MIB, incoming=[coming])) == [2]


def of_server(uuid: str | None, day: int) -> ExportManifest:
    return an_export_of(day, vcenter_uuid=uuid, export_id=f"2026112{day}T000000Z-{len(uuid or ''):04x}")


@pytest.mark.parametrize("coming", ["one", "other", None], ids=["one", "other", "without a UUID"])
def test_an_export_that_is_coming_counts_for_its_own_vm_where_a_vcenter_was_installed_again(coming: str | None) -> None:
    """One address, three histories: of a server without a UUID, and of two with one. None is provably another."""
    exports = [(DB, of_server(uuid, day)) for uuid in (None, "one", "other") for day in (1, 2)]
    incoming = Incoming(folder=DB, identity=identity_of(of_server(coming, 0)), new_bytes=MIB)
    plan = plan_cleanup(exports, CleanupLimits(max_count=2), now=NOW, free_bytes=None, incoming=[incoming])
    assert [item.export_id for item in plan.to_delete] == [of_server(coming, 2).export_id]


# -- the options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "age"),
    [
        ({}, timedelta(hours=720)),
        ({"max_age": "10d"}, timedelta(days=10)),
        ({"max_count": 5}, None),
        ({"max_size": 5}, None),
        ({"min_free": 5}, None),
        ({"max_age": "10d", "max_count": 5}, timedelta(days=10)),
        ({"max_age": "0"}, None),
    ],
)
def test_age_alone_applies_only_if_given_or_if_no_other_limit_was(
    options: dict[str, Any], age: timedelta | None
) -> None:
    assert CleanupLimits.from_options(Cleanup.model_validate(options)).max_age == age


def test_every_limit_and_pattern_reaches_the_plan() -> None:
    limits = CleanupLimits.from_options(Cleanup(max_count=1, max_size=2, min_free=3, preserve=("db*",)))
    assert limits == CleanupLimits(max_count=1, max_size=2, min_free=3, preserve=("db*",))


# -- for every store and every limit ----------------------------------------------------------------------------------


@st.composite
def listings(draw: st.DrawFn) -> Listing:
    """Exports of up to three VMs, with content shared by hard link, by reference, and not at all."""
    found: Listing = []
    for folder in draw(st.lists(st.sampled_from([DB, WEB, "app.2"]), unique=True)):
        earlier: list[ExportManifest] = []
        for day in sorted(draw(st.lists(st.integers(0, 40), unique=True, max_size=7)), reverse=True):
            holder = draw(st.sampled_from([None, None, *earlier]))
            made = an_export_of(
                day,
                content=draw(st.sampled_from([None, "same", "other"])),
                size=draw(st.integers(0, 5)),
                holder=holder,
                preserve=draw(st.integers(0, 9)) == 0,
                damage=("wrong",) if draw(st.integers(0, 4)) == 0 else (),
                vm=VM.model_copy(update={"name": folder.partition(".")[0], "moref": folder, "instance_uuid": ""}),
            )
            earlier.append(made)
            found.append((folder, made))
    return draw(st.permutations(found))


limit_sets = st.builds(
    CleanupLimits,
    max_age=st.one_of(st.none(), st.integers(1, 40).map(lambda day: timedelta(days=day))),
    max_count=st.integers(0, 4),
    max_size=st.integers(0, 20).map(lambda size: size * MIB),
    min_free=st.integers(0, 20).map(lambda size: size * MIB),
    preserve=st.sampled_from([(), ("web*",)]),
)
free_space = st.one_of(st.none(), st.integers(0, 10).map(lambda size: size * MIB))


def rest(exports: Listing, plan: CleanupPlan) -> Listing:
    gone = {str(item) for item in plan.to_delete}
    return [(folder, made) for folder, made in exports if f"{folder}/{made.export_id}" not in gone]


@anytime
@given(exports=listings(), limits=limit_sets, free=free_space)
def test_no_guard_ever_falls(exports: Listing, limits: CleanupLimits, free: int | None) -> None:
    plan = plan_cleanup(exports, limits, now=NOW, free_bytes=free)
    left = rest(exports, plan)
    names = {f"{folder}/{made.export_id}" for folder, made in left}
    for folder in {folder for folder, _ in exports}:
        mine = sorted((made for place, made in exports if place == folder), key=lambda made: made.started)
        assert f"{folder}/{mine[-1].export_id}" in names
        sound = [made for made in mine if not made.damage]
        assert not sound or f"{folder}/{sound[-1].export_id}" in names
    for folder, made in exports:
        if made.preserve or (limits.preserve and folder.startswith("web")):
            assert f"{folder}/{made.export_id}" in names
    for folder, made in left:
        for entry in made.files:
            assert entry.stored_in is None or f"{folder}/{entry.stored_in}" in names


@anytime
@given(exports=listings(), limits=limit_sets, free=free_space)
def test_at_no_moment_of_the_deleting_does_an_export_lack_its_files(
    exports: Listing, limits: CleanupLimits, free: int | None
) -> None:
    there = {f"{folder}/{made.export_id}": (folder, made) for folder, made in exports}
    for item in plan_cleanup(exports, limits, now=NOW, free_bytes=free).to_delete:
        del there[str(item)]
        for folder, made in there.values():
            assert all(entry.stored_in is None or f"{folder}/{entry.stored_in}" in there for entry in made.files)


@anytime
@given(exports=listings(), limits=limit_sets, free=free_space)
def test_a_second_run_deletes_nothing_more(exports: Listing, limits: CleanupLimits, free: int | None) -> None:
    first = plan_cleanup(exports, limits, now=NOW, free_bytes=free)
    freed = None if free is None else free + first.freed_bytes
    second = plan_cleanup(rest(exports, first), limits, now=NOW, free_bytes=freed)
    assert second.to_delete == ()
    assert second.unreachable == first.unreachable
    assert second.kept_bytes == first.kept_bytes


@anytime
@given(exports=listings(), limits=limit_sets, free=free_space)
def test_the_bytes_add_up_and_every_export_is_accounted_for(
    exports: Listing, limits: CleanupLimits, free: int | None
) -> None:
    plan = plan_cleanup(exports, limits, now=NOW, free_bytes=free)
    assert (
        plan.freed_bytes + plan.kept_bytes == plan_cleanup(exports, CleanupLimits(), now=NOW, free_bytes=0).kept_bytes
    )
    assert sorted(str(item) for item in plan.items) == sorted(f"{folder}/{made.export_id}" for folder, made in exports)
    assert all(item.reason for item in plan.items)


@anytime
@given(exports=listings(), limits=limit_sets, free=free_space)
def test_a_limit_is_kept_or_reported(exports: Listing, limits: CleanupLimits, free: int | None) -> None:
    plan = plan_cleanup(exports, limits, now=NOW, free_bytes=free)
    told = " ".join(plan.unreachable)
    if limits.max_size and plan.kept_bytes > limits.max_size:
        assert "--cleanup-max-size" in told
    if limits.min_free and (free is None or free + plan.freed_bytes < limits.min_free):
        assert "--cleanup-min-free" in told


@anytime
@given(exports=listings(), loose=st.integers(1, 40), tight=st.integers(1, 40))
def test_a_tighter_limit_deletes_all_that_a_looser_one_does(exports: Listing, loose: int, tight: int) -> None:
    loose, tight = max(loose, tight), min(loose, tight)
    pairs = [
        (CleanupLimits(max_age=timedelta(days=loose)), CleanupLimits(max_age=timedelta(days=tight))),
        (CleanupLimits(max_count=loose), CleanupLimits(max_count=tight)),
        (CleanupLimits(max_size=loose * MIB), CleanupLimits(max_size=tight * MIB)),
        (CleanupLimits(min_free=tight * MIB), CleanupLimits(min_free=loose * MIB)),
    ]
    for looser, tighter in pairs:
        few, many = (plan_cleanup(exports, limits, now=NOW, free_bytes=0) for limits in (looser, tighter))
        assert {str(item) for item in few.to_delete} <= {str(item) for item in many.to_delete}


@anytime
@given(exports=listings(), count=st.integers(1, 4))
def test_the_count_of_one_vm_is_no_business_of_another(exports: Listing, count: int) -> None:
    limits = CleanupLimits(max_count=count)
    together = plan_cleanup(exports, limits, now=NOW, free_bytes=None)
    for folder in {folder for folder, _ in exports}:
        alone = plan_cleanup([pair for pair in exports if pair[0] == folder], limits, now=NOW, free_bytes=None)
        assert [str(item) for item in together.to_delete if item.folder == folder] == [
            str(item) for item in alone.to_delete
        ]


def test_a_preserve_pattern_that_matches_nothing_is_said() -> None:
    assert cleanup(FIVE, preserve=(VM.name,)).warnings == ()
    (said,) = cleanup(FIVE, preserve=("typo*",)).warnings
    assert "'typo*' matches no VM" in said


@pytest.mark.parametrize("pattern", ["db*,web*", "web*, db01", f"typo,{DB}", "db01,"])
def test_patterns_joined_by_commas_that_match_only_apart_delete_nothing(pattern: str) -> None:
    with pytest.raises(UsageError, match="nothing is deleted") as refused:
        cleanup(FIVE, max_count=1, preserve=(pattern,))
    assert "--cleanup-preserve" in str(refused.value.fix)
    assert "once per pattern" in str(refused.value.fix)


def test_a_pattern_with_a_comma_that_matches_a_name_with_one_is_no_mistake() -> None:
    named = VM.model_copy(update={"name": "db01, old"})
    exports = [("x.1", an_export_of(day, vm=named)) for day in (1, 2, 3)]
    plan = cleanup(exports, max_count=1, preserve=("db01, old",))
    assert plan.to_delete == ()
    assert plan.warnings == ()


def test_a_pattern_with_a_comma_that_matches_in_no_reading_is_a_warning() -> None:
    (said,) = cleanup(FIVE, max_count=1, preserve=("mail,fs*",)).warnings
    assert "'mail,fs*' matches no VM" in said


def test_a_dry_run_knows_the_vm_whose_first_export_is_coming() -> None:
    names = ("new, vm", "/dc/vm/new, vm")
    coming = COMING.model_copy(update={"folder": "new.1", "names": names})
    limits = CleanupLimits(preserve=("new, vm",))
    assert plan_cleanup([], limits, now=NOW, free_bytes=None, incoming=(coming,)).warnings == ()


@pytest.mark.parametrize("pattern", ["archive", "/dc/vm/archive"])
def test_a_pattern_for_the_name_of_today_preserves_what_was_exported_under_an_earlier_name(pattern: str) -> None:
    renamed = VM.model_copy(update={"name": "archive", "path": "/dc/vm/archive"})
    old: Listing = [(DB, an_export_of(day)) for day in (4, 3)]
    exports = [*old, (DB, an_export_of(2, vm=renamed)), (WEB, an_export_of(1, vm=WEB_VM))]
    assert cleanup(exports, max_count=1, preserve=(pattern,)).to_delete == ()
    coming = COMING.model_copy(update={"names": ("archive", "/dc/vm/archive")})
    limits = CleanupLimits(max_count=1, preserve=(pattern,))
    assert plan_cleanup(old, limits, now=NOW, free_bytes=None, incoming=[coming]).to_delete == ()


def test_a_bracket_in_a_preserved_name_is_a_bracket() -> None:
    named = VM.model_copy(update={"name": "db01 [prod]"})
    exports = [("x.1", an_export_of(day, vm=named)) for day in (1, 2, 3)]
    assert cleanup(exports, max_count=1, preserve=("db01 [prod]",)).to_delete == ()
