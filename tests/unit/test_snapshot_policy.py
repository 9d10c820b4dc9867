"""Which snapshots are ours, and which of ours go; a user's is never chosen."""

from datetime import timedelta

import pytest

from hyperexport.model.identity import VmIdentity
from hyperexport.model.ownership import Owner
from hyperexport.model.vm import SnapshotInfo
from hyperexport.policy.snapshots import (
    SnapshotPlan,
    SnapshotState,
    abandoned,
    beyond_retention,
    chain_refusal,
    classify_snapshots,
    given_up_after_a_failure,
    ours,
    plan_snapshots,
    space_warnings,
)
from tests.examples import NOW, VM, a_disk

UUID = VM.instance_uuid
IDENTITY = VmIdentity.of(VM, vcenter="vc", vcenter_uuid=None)


def a_snapshot(
    number: int, *, run: str = "", keep: bool = False, vm: str = UUID, description: str | None = None
) -> SnapshotInfo:
    """The snapshot that was made on day ``number``; of a run of ours, or of a user where no run is named."""
    mark = Owner(
        run=run, vcenter="vc", vm=vm, host="h", pid=1, started=NOW + timedelta(days=number), keep=keep
    ).to_description()
    return SnapshotInfo(
        moref=f"snapshot-{number}",
        name="hyperexport-20261123T060000Z",
        description=description if description is not None else mark if run else "before the upgrade",
        created=NOW + timedelta(days=number),
        depth=number + 1,
    )


def numbers(snapshots: list[SnapshotInfo]) -> list[int]:
    return [int(snapshot.moref.removeprefix("snapshot-")) for snapshot in snapshots]


def test_a_snapshot_is_ours_by_its_mark_and_not_by_its_name() -> None:
    tree = [a_snapshot(1), a_snapshot(0, run="r0")]
    assert [(snapshot.moref, owner.run) for snapshot, owner in ours(tree, IDENTITY)] == [("snapshot-0", "r0")]


@pytest.mark.parametrize(
    "description",
    [
        "",
        "hyperexport",
        "[hyperexport ]",
        "[hyperexport {}]",
        '[hyperexport {"tool": "hyperexport", "run": "r"}]',
        "[hyperexport {broken]",
    ],
)
def test_a_description_without_a_whole_mark_is_not_ours(description: str) -> None:
    assert ours([a_snapshot(0, description=description)], IDENTITY) == []


def test_a_mark_survives_words_that_a_person_adds_around_it() -> None:
    marked = a_snapshot(0, run="r0")
    edited = marked.model_copy(update={"description": f"Ask Jo!\n{marked.description}\n(seen)"})
    assert numbers([snapshot for snapshot, _ in ours([edited], IDENTITY)]) == [0]


def test_a_mark_of_another_vm_is_not_ours_to_act_on() -> None:
    tree = [a_snapshot(0, run="r0", vm="abcdef99-1111-2222-3333-444455556666")]
    assert ours(tree, IDENTITY) == []
    theirs = VM.model_copy(update={"instance_uuid": "abcdef99-1111-2222-3333-444455556666".upper()})
    assert len(ours(tree, VmIdentity.of(theirs, vcenter="vc", vcenter_uuid=None))) == 1


def test_ours_come_oldest_first_whatever_the_order_of_the_tree() -> None:
    tree = [a_snapshot(number, run="r") for number in (2, 0, 1)]
    assert numbers([snapshot for snapshot, _ in ours(tree, IDENTITY)]) == [0, 1, 2]


@pytest.mark.parametrize(("keep", "gone"), [(0, []), (1, [0, 2, 3]), (2, [0, 2]), (4, []), (9, [])])
def test_the_oldest_of_our_kept_snapshots_go_beyond_the_newest_n(keep: int, gone: list[int]) -> None:
    tree = [a_snapshot(number, run="r", keep=True) for number in (3, 0, 4, 2)]
    tree.insert(1, a_snapshot(1))
    assert numbers(beyond_retention(tree, vm=IDENTITY, keep=keep)) == gone


def test_a_snapshot_of_a_run_that_will_remove_it_neither_goes_nor_counts() -> None:
    tree = [a_snapshot(0, run="r0"), a_snapshot(1, run="r1", keep=True), a_snapshot(2, run="r2")]
    assert beyond_retention(tree, vm=IDENTITY, keep=1) == []


def test_what_a_dead_run_should_have_removed_is_abandoned() -> None:
    tree = [a_snapshot(1, run="dead"), a_snapshot(2, run="alive"), a_snapshot(3), a_snapshot(0, run="dead")]
    assert numbers(abandoned(tree, vm=IDENTITY, is_over=lambda owner: owner.run == "dead")) == [0, 1]


def test_a_snapshot_that_was_made_to_be_kept_outlives_its_run() -> None:
    tree = [a_snapshot(0, run="dead", keep=True)]
    assert abandoned(tree, vm=IDENTITY, is_over=lambda _owner: True) == []


def test_whether_a_run_is_over_is_never_asked_about_a_users_snapshot() -> None:
    def ask(owner: Owner) -> bool:
        pytest.fail(f"asked about {owner}")

    assert abandoned([a_snapshot(0)], vm=IDENTITY, is_over=ask) == []


@pytest.mark.parametrize("depth", [0, 1, 29])
def test_a_short_chain_may_grow(depth: int) -> None:
    assert chain_refusal(depth) is None


@pytest.mark.parametrize("depth", [30, 32])
def test_a_chain_near_the_limit_is_refused_with_its_length(depth: int) -> None:
    assert f"is {depth} long" in (chain_refusal(depth) or "")


def test_a_mark_says_to_a_person_whether_the_snapshot_stays() -> None:
    assert "removed by it" in a_snapshot(0, run="r").description
    assert "kept on purpose" in a_snapshot(0, run="r", keep=True).description


# -- the plan ----------------------------------------------------------------------------------------------------------


def everybody(_owner: Owner) -> bool:
    return True


def a_plan(tree: list[SnapshotInfo], **changes: object) -> SnapshotPlan:
    values = {"make": "new", "keeps_made": False, "keep": 0, "merge_all": False, "is_over": lambda _owner: False}
    return plan_snapshots(tree, **{"vm": IDENTITY, **values, **changes})


def test_the_new_snapshot_counts_among_those_that_are_kept() -> None:
    tree = [a_snapshot(number, run="r", keep=True) for number in range(3)]
    assert numbers(list(a_plan(tree, keep=3, keeps_made=True, is_over=everybody).removed)) == [0]
    assert a_plan(tree, keep=3, make=None, is_over=everybody).removed == ()


def test_a_kept_snapshot_goes_only_where_its_run_is_over_or_its_export_is_stored() -> None:
    tree = [a_snapshot(number, run=f"r{number}", keep=True) for number in range(5)]
    plan = a_plan(tree, keep=2, is_over=lambda owner: owner.run == "r0", was_read=lambda one: one.moref == "snapshot-1")
    assert numbers(list(plan.removed)) == [0, 1]
    assert [(one.moref, owner.run) for one, owner in plan.in_doubt] == [("snapshot-2", "r2")]


def test_a_kept_snapshot_of_a_run_at_work_neither_goes_nor_is_in_doubt_and_holds_the_vm() -> None:
    tree = [a_snapshot(number, run=f"r{number}", keep=True) for number in range(2)]
    plan = a_plan(tree, keep=1, keeps_made=True, at_work=lambda owner: owner.run == "r0")
    assert (plan.removed, [owner.run for _, owner in plan.in_doubt]) == ((), ["r1"])
    assert plan.holder
    assert plan.holder.run == "r0"


def test_a_run_that_is_not_proved_to_be_over_holds_the_vm_by_a_snapshot_that_it_will_remove() -> None:
    tree = [a_snapshot(0, run="unknown"), a_snapshot(1, run="at work"), a_snapshot(2, run="kept", keep=True)]
    plan = a_plan(tree[:1])
    assert plan.holder
    assert plan.holder.run == "unknown"
    plan = a_plan(tree, at_work=lambda owner: owner.run == "at work")
    assert plan.holder
    assert plan.holder.run == "at work", "the one that is seen at work is named"
    assert a_plan(tree, is_over=everybody).holder is None


def test_a_kept_snapshot_holds_the_vm_only_while_its_run_is_seen_to_read_from_it() -> None:
    tree = [a_snapshot(0, run="kept", keep=True)]
    assert a_plan(tree).holder is None
    assert a_plan(tree, at_work=everybody).holder
    assert a_plan(tree, at_work=everybody, was_read=lambda _one: True).holder is None


def test_each_run_is_asked_about_once_for_a_plan() -> None:
    asked: list[str] = []

    def is_over(owner: Owner) -> bool:
        asked.append(owner.run)
        return len(asked) > 1

    plan = a_plan([a_snapshot(0, run="ending")], is_over=is_over)
    assert (asked, len(plan.abandoned), bool(plan.holder)) == (["ending"], 0, True)


SERVER, OTHER = "4f0e7a52-0000-0000-0000-000000000001", "4f0e7a52-0000-0000-0000-000000000002"


@pytest.mark.parametrize("token", [UUID, "vm-42"], ids=["an instance UUID", "no instance UUID"])
@pytest.mark.parametrize(
    ("tag", "here", "same"),
    [
        ((SERVER, "vc"), (SERVER, "10.0.0.1"), {UUID: True, "vm-42": True}),
        ((SERVER, "vc"), (OTHER, "vc"), {UUID: False, "vm-42": False}),
        ((None, "vc"), (None, "vc"), {UUID: True, "vm-42": True}),
        ((None, "vc"), (None, "10.0.0.1"), {UUID: True, "vm-42": False}),
    ],
    ids=["one server by two addresses", "two servers at one address", "one ESXi host", "perhaps two ESXi hosts"],
)
def test_a_snapshot_is_known_by_its_server_and_the_vms_uuid_or_moref(
    token: str, tag: tuple[str | None, str], here: tuple[str | None, str], same: dict[str, bool]
) -> None:
    ref = VM if token == UUID else VM.model_copy(update={"instance_uuid": ""})
    vm = VmIdentity.of(ref, vcenter=here[1], vcenter_uuid=here[0])
    made = Owner.of_this_process(run="dead", vcenter=tag[1], vcenter_uuid=tag[0], vm=token).made_for("ours")
    tree = [a_snapshot(0, description=made.to_description()).model_copy(update={"name": "ours"})]
    plan = a_plan(tree, vm=vm, is_over=everybody)
    assert bool(plan.abandoned) is same[token]
    assert bool(plan.in_doubt) is not same[token], "it stays, and is reported"
    assert a_plan(tree, vm=vm).holder is None or same[token]


def test_what_piled_up_goes_before_the_snapshot_is_made_and_the_rest_after_it() -> None:
    tree = [a_snapshot(number, run="r", keep=True) for number in range(30)]
    plan = a_plan(tree, keep=3, keeps_made=True, is_over=everybody)
    assert numbers(list(plan.removed_first)) == list(range(27))
    assert numbers(list(plan.removed)) == list(range(28))
    assert plan.chain_before == 3


def test_a_full_chain_of_as_many_as_are_kept_loses_its_oldest_before_the_new_one_is_made() -> None:
    tree = [a_snapshot(number, run="r", keep=True) for number in range(30)]
    plan = a_plan(tree, keep=30, keeps_made=True, is_over=everybody)
    assert (numbers(list(plan.removed_first)), plan.chain_before) == ([0], 29)


def test_the_longest_branch_counts_and_not_what_goes_from_another() -> None:
    tree = [a_snapshot(0), *(a_snapshot(number, run="dead") for number in (1, 2))]
    branch = a_snapshot(9).model_copy(update={"depth": 2})
    plan = a_plan([*tree, branch], is_over=everybody)
    assert (len(plan.abandoned), plan.chain_before) == (2, 2)


def test_after_a_failure_as_many_stay_as_after_a_success() -> None:
    tree = [a_snapshot(number, run="r", keep=True) for number in range(4)]
    plan = a_plan(tree[:3], keep=3, keeps_made=True, is_over=everybody)
    doubtful = a_plan(tree[:3], keep=3, keeps_made=True)

    def given_up(plan: SnapshotPlan, tree: list[SnapshotInfo], made: str | None) -> list[int]:
        return numbers(given_up_after_a_failure(plan, tree, vm=IDENTITY, made=made))

    assert given_up(plan, tree, "snapshot-3") == [0]
    assert given_up(plan, tree[:3], None) == []
    assert given_up(doubtful, tree, "snapshot-3") == [3], "its own, where nothing else is proved"


@pytest.mark.parametrize("keep", [False, True])
def test_a_tag_that_was_copied_to_another_snapshot_decides_nothing(keep: bool) -> None:
    ours_ = Owner.of_this_process(run="r", vcenter="vc", vm=UUID, keep=keep).made_for("ours")
    copied = a_snapshot(0, description=ours_.to_description()).model_copy(update={"name": "a user's"})
    plan = a_plan([copied], keep=1, keeps_made=True, is_over=everybody, at_work=everybody)
    assert (plan.abandoned, plan.removed, plan.holder) == ((), (), None)
    assert [one.moref for one, _ in plan.in_doubt] == ["snapshot-0"]
    assert [found.state for found in classify_snapshots(VM, [copied], vm=IDENTITY, is_over=everybody, runs=("r",))] == [
        SnapshotState.IN_DOUBT
    ]


def test_a_run_that_the_user_names_gives_up_what_it_kept() -> None:
    tree = [a_snapshot(0, run="named", keep=True), a_snapshot(1, run="other", keep=True)]
    found = classify_snapshots(VM, tree, vm=IDENTITY, is_over=everybody, runs=("named",))
    assert [marked.state for marked in found] == [SnapshotState.ABANDONED, SnapshotState.KEPT]


def test_what_was_abandoned_goes_first_and_is_in_no_other_list() -> None:
    tree = [a_snapshot(0, run="dead"), a_snapshot(1), a_snapshot(2, run="alive")]
    plan = a_plan(tree, is_over=lambda owner: owner.run == "dead", merge_all=True)
    assert (numbers(list(plan.abandoned)), numbers(list(plan.removed)), plan.kept) == ([0], [1, 2], ())
    assert plan.chain_before == 2


def test_a_merge_keeps_not_even_the_snapshot_that_was_to_be_kept() -> None:
    assert a_plan([], keeps_made=True).keeps_made
    assert not a_plan([], keeps_made=True, merge_all=True).keeps_made


def test_each_marked_snapshot_is_judged_and_a_users_is_not() -> None:
    tree = [a_snapshot(0, run="dead"), a_snapshot(1, run="alive"), a_snapshot(2, run="dead", keep=True), a_snapshot(3)]
    found = classify_snapshots(VM, tree, vm=IDENTITY, is_over=lambda owner: owner.run == "dead")
    assert [marked.state for marked in found] == [SnapshotState.ABANDONED, SnapshotState.IN_DOUBT, SnapshotState.KEPT]


@pytest.mark.parametrize(("free", "warned"), [(20, False), (19, True)])
def test_a_datastore_with_less_free_than_a_fifth_of_the_disks_is_warned_about(free: int, warned: bool) -> None:
    disks = [a_disk(0, capacity=60), a_disk(1, capacity=40)]
    name = disks[0].file.partition("]")[0].removeprefix("[")
    assert bool(space_warnings(disks, {name: free})) is warned
    assert space_warnings(disks, {"elsewhere": 0}) == []
