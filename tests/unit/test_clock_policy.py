"""Whether a machine's clock may decide what is deleted; and that a wrong one deletes nothing, whatever the limit."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from hyperexport.base.units import MIB
from hyperexport.model.manifest import ExportManifest
from hyperexport.policy.clock import ClockAgreement, ClockVerdict, OtherClock, compare_clocks
from hyperexport.policy.keep_rules import KeepRules
from hyperexport.policy.retention import CleanupLimits, CleanupPlan, plan_cleanup
from tests.examples import NOW, VM, a_disk_file, a_hash, an_export

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
FOLDER = "db01.4f0e7a52"
LEAPS = [2 * HOUR, DAY, 29 * DAY, 800 * DAY]
EVERY_LEAP = [*LEAPS, *(-leap for leap in LEAPS)]


def vcenter(time: datetime) -> OtherClock:
    return OtherClock(name="vc01", time=time)


# -- the verdict ------------------------------------------------------------------------------------------------------


def test_a_clock_with_which_another_agrees_decides() -> None:
    verdict = compare_clocks(NOW, [vcenter(NOW + timedelta(minutes=3))], None, uptime=None)
    assert verdict == ClockVerdict(confirmed=True, agreed=True)


@pytest.mark.parametrize("leap", EVERY_LEAP, ids=str)
def test_a_clock_that_another_contradicts_decides_nothing(leap: timedelta) -> None:
    verdict = compare_clocks(NOW + leap, [vcenter(NOW)], None, uptime=None)
    assert verdict.problem
    assert "vc01" in verdict.problem
    assert ("ahead" in verdict.problem) == (leap > timedelta(0))
    assert not verdict.agreed


@pytest.mark.parametrize("leap", EVERY_LEAP, ids=str)
def test_a_leap_since_the_last_agreement_is_proved_by_the_clock_that_nobody_sets(leap: timedelta) -> None:
    last_agreement = ClockAgreement(wall=NOW - DAY, uptime=1000)
    verdict = compare_clocks(NOW + leap, [], last_agreement, uptime=1000 + DAY.total_seconds())
    assert verdict.problem
    assert ("forward" in verdict.problem) == (leap > timedelta(0))


def test_a_clock_that_went_on_evenly_since_the_last_agreement_decides() -> None:
    last_agreement = ClockAgreement(wall=NOW - 30 * DAY, uptime=5)
    verdict = compare_clocks(NOW, [], last_agreement, uptime=5 + (30 * DAY).total_seconds() - 60)
    assert verdict == ClockVerdict(confirmed=True)


def test_a_clock_that_nobody_confirms_is_neither_believed_nor_refuted() -> None:
    assert compare_clocks(NOW, [], None, uptime=77) == ClockVerdict(confirmed=False)


def test_a_person_may_vouch_for_the_clock() -> None:
    assert compare_clocks(NOW, [vcenter(NOW - DAY)], None, uptime=None, trusted=True).problem is None


# -- clock leaps x retention: no wrong deletion ------------------------------------------------------------------------


def history(*days: float, server: Sequence[float] = (), size: int = 100) -> list[ExportManifest]:
    """Exports made one after the other; each dated so many days before NOW, and knowing all before it.

    ``server`` has the days by the server's clock, where that tells its time.
    """
    made: list[ExportManifest] = []
    for number, day in enumerate(days):
        disk = a_disk_file(size=size * MIB, sha256=a_hash(str(number)))
        ids = tuple(one.export_id for one in reversed(made))
        export = an_export(age=timedelta(days=day), tail=f"{number:04x}", files=(disk,), predecessors=ids)
        theirs = NOW - timedelta(days=server[number]) if server else None
        made.append(export.model_copy(update={"server_time": theirs}))
    return made


def cleanup(
    exports: Sequence[ExportManifest], *, now: datetime = NOW, clock: ClockVerdict | None = None, **limits: Any
) -> CleanupPlan:
    own = limits.pop("own", ())
    return plan_cleanup(
        [(FOLDER, export) for export in exports],
        CleanupLimits(**limits),
        now=now,
        free_bytes=0,
        own=own,
        clock=clock or ClockVerdict(),
    )


LIMITS: list[tuple[dict[str, Any], set[int]]] = [
    ({"max_age": 60 * DAY}, set()),
    ({"max_age": 60 * HOUR}, {0, 1}),
    ({"max_count": 1}, {0, 1, 2}),
    ({"max_count": 3}, {0}),
    ({"max_size": 200 * MIB}, {0, 1}),
    ({"min_free": 100 * MIB}, {0}),
    ({"max_count": 1, "keep": KeepRules(daily=3)}, {0}),
]
"""Limits, and which of four exports of the last four nights each may delete at the most, by the true times."""


@pytest.mark.parametrize("leap", EVERY_LEAP, ids=str)
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("wrong", ["ours", "the server's", "ours, and the server does not tell its time"])
@pytest.mark.parametrize(("limits", "due"), LIMITS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_an_export_made_while_a_clock_was_wrong_costs_no_export(
    leap: timedelta, position: int, wrong: str, limits: dict[str, Any], due: set[int]
) -> None:
    right, days = [4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]
    days[position] -= leap / DAY
    if wrong == "ours":
        exports = history(*days, server=right)
    elif wrong == "the server's":
        exports = history(*right, server=days)
    elif "keep" in limits and leap == DAY:
        return  # dated as the next export is: nothing contradicts it, and it counts as one of the same day
    elif leap > timedelta(0) or (position and -leap > DAY):
        exports = history(*days)
    else:
        return  # dated too early, yet not before its predecessor: nothing contradicts it, and nothing can
    plan = cleanup(exports, **limits)
    gone = {int(item.export_id[-4:], 16) for item in plan.to_delete}
    assert gone <= due
    if leap > DAY * 4:
        assert plan.to_delete == ()
        assert any("in the future" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize("leap", EVERY_LEAP, ids=str)
@pytest.mark.parametrize(("limits", "due"), LIMITS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_a_cleanup_while_the_clock_is_wrong_deletes_nothing_where_another_clock_is_known(
    leap: timedelta, limits: dict[str, Any], due: set[int]
) -> None:
    del due
    verdict = compare_clocks(NOW + leap, [vcenter(NOW)], None, uptime=None)
    plan = cleanup(history(4, 3, 2, 1), now=NOW + leap, clock=verdict, **limits)
    assert plan.to_delete == ()
    assert any("--cleanup-trust-clock" in doubt for doubt in plan.doubts)


@pytest.mark.parametrize("leap", EVERY_LEAP, ids=str)
@pytest.mark.parametrize(("limits", "due"), LIMITS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_a_cleanup_while_the_clock_is_wrong_and_no_other_is_known_deletes_nothing_that_is_not_due(
    leap: timedelta, limits: dict[str, Any], due: set[int]
) -> None:
    plan = cleanup(history(4, 3, 2, 1), now=NOW + leap, clock=ClockVerdict(confirmed=False), **limits)
    assert {int(item.export_id[-4:], 16) for item in plan.to_delete} <= due
    if leap > 60 * DAY and "max_age" in limits:
        assert any("no other clock confirms" in doubt for doubt in plan.doubts)


def test_ages_go_on_being_kept_to_where_no_other_clock_is_known() -> None:
    plan = cleanup(history(50, 40, 20, 1), clock=ClockVerdict(confirmed=False), max_age=30 * DAY)
    assert [item.export_id[-4:] for item in plan.to_delete] == ["0000", "0001"]


def test_a_clock_that_was_ahead_for_a_day_costs_no_export_of_the_days_in_between() -> None:
    """The days that follow are all before its date, and are days of their own for a keep rule."""
    exports = history(*range(45, 30, -1), 0.5, *range(29, 0, -1))
    plan = cleanup(exports, max_count=1, keep=KeepRules(daily=7, weekly=4))
    kept = {int(item.export_id[-4:], 16): item.kept_by for item in plan.items if not item.delete}
    assert set(range(38, 45)) <= set(kept)
    assert all(kept[number] for number in range(38, 45))
    assert len(kept) < 20


def test_a_person_who_vouches_for_the_clock_gets_the_deletions_in_the_true_order() -> None:
    exports = history(4, -2, 2, 1)
    trusted = compare_clocks(NOW, [], None, uptime=None, trusted=True)
    assert cleanup(exports, max_count=1).to_delete == ()
    plan = cleanup(exports, clock=trusted, max_count=1)
    assert [item.export_id[-4:] for item in plan.to_delete] == ["0000", "0001", "0002"]


@pytest.mark.parametrize("leap", EVERY_LEAP, ids=str)
def test_a_run_never_deletes_the_export_that_it_made(leap: timedelta) -> None:
    own = an_export(age=-leap, tail="00ff")
    exports = [*history(4, 3, 2, 1), own]
    for verdict in (ClockVerdict(), ClockVerdict(confirmed=False), ClockVerdict(trusted=True)):
        plan = cleanup(exports, clock=verdict, own={own.export_id}, max_count=1, max_age=HOUR, max_size=1)
        assert own.export_id not in {item.export_id for item in plan.to_delete}


def test_an_export_of_the_future_stops_the_deletions_of_its_own_vm_only() -> None:
    other = VM.model_copy(update={"instance_uuid": "11111111-1111-2222-3333-444455556666", "moref": "vm-9"})
    mine = [an_export(age=age * DAY, tail=f"{age + 9:04x}", vm=other) for age in (3, 2, 1)]
    exports = [(FOLDER, export) for export in [*history(3, 2, -9), *mine]]
    plan = plan_cleanup(exports, CleanupLimits(max_count=1), now=NOW, free_bytes=None)
    assert {item.export_id for item in plan.to_delete} == {one.export_id for one in mine[:2]}


# -- identity x retention ----------------------------------------------------------------------------------------------


def test_two_vms_that_share_a_folder_never_count_against_each_other() -> None:
    nameless = VM.model_copy(update={"instance_uuid": ""})
    other = nameless.model_copy(update={"moref": "vm-99"})
    mine = [an_export(age=age * DAY, tail="000a", vm=nameless) for age in (2, 4)]
    theirs = [an_export(age=age * DAY, tail="000b", vm=other) for age in (1, 3)]
    exports = [("db01.00000000", export) for export in [*mine, *theirs]]
    plan = plan_cleanup(exports, CleanupLimits(max_count=2), now=NOW, free_bytes=None)
    assert plan.to_delete == ()
    plan = plan_cleanup(exports, CleanupLimits(max_count=1, max_age=HOUR), now=NOW, free_bytes=None)
    assert {item.export_id for item in plan.to_delete} == {mine[1].export_id, theirs[1].export_id}


def test_another_vms_export_in_the_folder_and_a_second_copy_cost_no_export() -> None:
    foreign = an_export(age=HOUR, tail="0bad", vcenter="elsewhere.example.com", vm=VM)
    mine = history(2, 1)
    exports = [*((FOLDER, one) for one in [*mine, foreign]), ("copies.4f0e7a52", mine[1])]
    assert plan_cleanup(exports, CleanupLimits(max_count=2), now=NOW, free_bytes=None).to_delete == ()
    plan = plan_cleanup(exports, CleanupLimits(max_count=1), now=NOW, free_bytes=None)
    assert [item.export_id for item in plan.to_delete] == [mine[0].export_id]


def test_the_folders_of_a_renamed_vm_are_one_history() -> None:
    renamed = VM.model_copy(update={"name": "db01-old"})
    old = [("db01.4f0e7a52", export) for export in history(5, 4, 3)]
    new = [("db01-old.4f0e7a52", an_export(age=HOUR, vm=renamed))]
    plan = plan_cleanup([*old, *new], CleanupLimits(max_count=1), now=NOW, free_bytes=None)
    assert len(plan.to_delete) == 3
    assert [item.folder for item in plan.items if not item.delete] == ["db01-old.4f0e7a52"]
