"""Grandfather-father-son: what the keep rules hold, against restic, and over simulated years."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperexport.base.units import MIB
from hyperexport.model.manifest import ExportManifest
from hyperexport.model.vm import VmInfo
from hyperexport.options.groups import Cleanup
from hyperexport.policy.clock import ClockVerdict
from hyperexport.policy.keep_rules import KeepRules
from hyperexport.policy.retention import CleanupLimits, CleanupPlan, plan_cleanup
from tests.examples import NOW, VM, a_disk_file, a_hash, an_export

RESTIC = json.loads((Path(__file__).parents[1] / "data" / "restic_forget.json").read_text(encoding="utf-8"))
"""What restic 0.14.0 answered: ``forget --dry-run --json --keep-...`` on snapshots of these times, in UTC.

Later versions "additionally" keep the oldest snapshot "if there are not enough snapshots to keep one for each
duration-related --keep-* option" (restic's manual, "Removing snapshots according to a policy"); so do we.
"""
TOO_FEW = ([14, 8, 6, 10], [0, 0, 60, 0], [0, 52, 0, 9])
"""The rules of the table for which there are not enough snapshots: they span four years and a month."""

DB = "db01.4f0e7a52"
NAMES = ("daily", "weekly", "monthly", "yearly")


def at(time: datetime, *, vm: VmInfo = VM, **changes: Any) -> ExportManifest:
    disk = a_disk_file(size=MIB, sha256=a_hash(f"{time}"))
    return an_export(age=NOW - time, files=(disk,), vm=vm, **changes)


def plan(
    exports: list[ExportManifest],
    keep: KeepRules,
    *,
    now: datetime = NOW,
    clock: ClockVerdict | None = None,
    **more: Any,
) -> CleanupPlan:
    limits = CleanupLimits(keep=keep, **more)
    verdict = clock or ClockVerdict()
    return plan_cleanup([(DB, one) for one in exports], limits, now=now, free_bytes=None, clock=verdict)


def left(found: CleanupPlan) -> list[datetime]:
    return sorted(item.started for item in found.items if not item.delete)


def rules(daily: int = 0, weekly: int = 0, monthly: int = 0, yearly: int = 0) -> KeepRules:
    return KeepRules(daily=daily, weekly=weekly, monthly=monthly, yearly=yearly)


# -- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", RESTIC["forget"], ids=lambda answer: "-".join(map(str, answer["rules"])))
def test_the_rules_keep_what_restic_forget_keeps(answer: dict[str, Any]) -> None:
    times = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in RESTIC["times"]]
    found = plan([at(time) for time in times], rules(*answer["rules"]), now=times[-1], max_count=1)
    oldest = RESTIC["times"][:1] if answer["rules"] in TOO_FEW else []
    assert [f"{time:%Y-%m-%dT%H:%M:%S}" for time in left(found)] == [*oldest, *answer["kept"]]


SUNDAY = ("--cleanup-keep-daily 2 (2026-11-22)", "--cleanup-keep-weekly 2 (2026-W47)")


def test_each_kept_export_says_by_which_rules_and_for_which_period() -> None:
    monday = datetime(2026, 11, 23, 2, tzinfo=UTC)
    exports = [at(monday - timedelta(days=day)) for day in range(40)]
    found = plan(exports, rules(daily=2, weekly=2, monthly=2), max_count=1)
    assert [(item.reason, item.kept_by) for item in found.items if not item.delete] == [
        (
            "the newest export of its VM",
            (
                "--cleanup-keep-daily 2 (2026-11-23)",
                "--cleanup-keep-weekly 2 (2026-W48)",
                "--cleanup-keep-monthly 2 (2026-11)",
            ),
        ),
        (
            f"kept by {SUNDAY[0]}, {SUNDAY[1]}; otherwise deleted: --cleanup-max-count 1: this VM has 1 newer export",
            SUNDAY,
        ),
        (
            (
                "kept by --cleanup-keep-monthly 2 (2026-10); otherwise deleted: "
                "--cleanup-max-count 1: this VM has 2 newer exports"
            ),
            ("--cleanup-keep-monthly 2 (2026-10)",),
        ),
    ]
    assert found.unreachable == ()


@pytest.mark.parametrize("limit", [{"max_age": timedelta(days=1)}, {"max_count": 1}, {"max_size": 1}])
def test_a_keep_rule_wins_over_every_limit(limit: dict[str, Any]) -> None:
    exports = [at(NOW - timedelta(days=31 * month)) for month in range(6)]
    assert plan(exports, rules(monthly=6), **limit).to_delete == ()
    assert len(plan(exports, rules(), **limit).to_delete) == 5


def test_a_size_that_the_rules_put_out_of_reach_is_reported() -> None:
    exports = [at(NOW - timedelta(days=31 * month)) for month in range(6)]
    (words,) = plan(exports, rules(monthly=6), max_size=1).unreachable
    assert "those that a keep rule holds" in words


def test_rules_alone_delete_nothing_but_what_is_older_than_the_default_age() -> None:
    exports = [at(NOW - timedelta(days=day)) for day in range(60)]
    limits = CleanupLimits.from_options(Cleanup(keep_daily=1, keep_monthly=3))
    found = plan(exports, limits.keep, max_age=limits.max_age)
    *older, _ = [time for time in left(found) if NOW - time >= timedelta(days=30)]
    assert [f"{time:%m-%d}" for time in older] == ["09-30"]
    assert len(left(found)) == 32


def test_each_vm_has_its_own_days() -> None:
    web = VM.model_copy(update={"name": "web01", "moref": "vm-7", "instance_uuid": "00000001-1111-2222-3333-4444"})
    both = [at(NOW - timedelta(hours=hour), vm=vm) for hour in (1, 2) for vm in (VM, web)]
    found = plan(both, rules(daily=1), max_count=1)
    assert sorted(item.vm for item in found.items if not item.delete) == ["db01", "web01"]


def test_a_damaged_export_takes_no_day_from_a_good_one() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    good, bad = at(noon), at(noon + timedelta(hours=1), damage=("a byte is wrong",))
    found = plan([at(NOW), at(NOW - timedelta(hours=1)), bad, good], rules(daily=2), max_count=1)
    assert noon in left(found)
    assert bad.started not in left(found)


def test_days_of_which_every_export_is_damaged_keep_their_newest_besides_those_with_a_good_one() -> None:
    """As where the base of a chain rotted: one file, and a month of exports."""
    days = [NOW - timedelta(days=day) for day in range(30)]
    damage = ("base.vmdk: a byte is wrong",)
    bad = [at(day - timedelta(hours=hour), damage=damage) for day in days[1:20] for hour in (0, 1)]
    good = [at(day) for day in (days[0], *days[20:])]

    found = plan([*bad, *good], rules(daily=7), max_count=1)

    assert left(found) == sorted([*days[0:7], *days[20:26]])
    held = {item.started: item.kept_by for item in found.items if not item.delete}
    assert held[days[3]] == ("--cleanup-keep-daily 7 (2026-11-20, which has no undamaged export)",)


def test_an_export_of_the_future_stays_and_takes_no_day() -> None:
    days = [at(NOW - timedelta(days=day)) for day in range(3)]
    ahead = [at(NOW + timedelta(days=day)) for day in (300, 400)]
    found = plan([*days, *ahead], rules(daily=3), max_count=1, clock=ClockVerdict(trusted=True))
    assert found.to_delete == ()
    assert {item.kept_by for item in found.items if item.started > NOW} == {
        ("the keep rules: it is dated in the future",)
    }


def test_the_copies_of_a_kept_export_stay() -> None:
    exports = [(folder, at(NOW - timedelta(days=day))) for day in range(4) for folder in (DB, "copy.4f0e7a52")]
    limits = CleanupLimits(keep=rules(daily=2), max_count=1)
    found = plan_cleanup(exports, limits, now=NOW, free_bytes=None)
    assert sorted((NOW - item.started).days for item in found.items if not item.delete) == [0, 0, 1, 1]


# -- over the years ---------------------------------------------------------------------------------------------------

START = datetime(2023, 12, 28, 2, tzinfo=UTC)
counts = st.integers(0, 8)


def newest_of_each(times: list[datetime], key: Any, count: int) -> set[datetime]:
    """What a rule holds, said in another way: the newest of each period, of the newest ``count`` periods."""
    newest: dict[Any, datetime] = {}
    for time in sorted(times):
        newest[key(time)] = time
    return set(sorted(newest.values(), reverse=True)[:count])


KEYS: dict[str, Any] = {
    "daily": datetime.date,
    "weekly": lambda time: (time.date() - date(2001, 1, 1)).days // 7,  # a Monday
    "monthly": lambda time: time.year * 12 + time.month,
    "yearly": lambda time: time.year,
}


@settings(deadline=None, max_examples=25)
@given(
    keep=st.builds(KeepRules, daily=counts, weekly=counts, monthly=counts, yearly=counts),
    steps=st.lists(st.sampled_from([6, 12, 24, 24, 24, 48, 24 * 9, 24 * 40]), min_size=1, max_size=150),
    count=st.sampled_from([1, 1, 3]),
)
def test_a_cleanup_after_every_export_keeps_over_years_what_the_rules_promise(
    keep: KeepRules, steps: list[int], count: int
) -> None:
    """However often it ran: of all exports ever made, what each rule promises is there, and hardly more."""
    now, ever, there = START, list[datetime](), list[ExportManifest]()
    oldest = START
    for hours in steps:
        now += timedelta(hours=hours)
        ever.append(now)
        there.append(at(now))
        oldest = min(one.started for one in there)
        gone = {item.started for item in plan(there, keep, now=now, max_count=count).to_delete}
        there = [one for one in there if one.started not in gone]
    kept = {one.started for one in there}
    promised = set[datetime]().union(*(newest_of_each(ever, KEYS[name], getattr(keep, name)) for name in NAMES))
    newest = set(sorted(ever, reverse=True)[:count])
    assert promised <= kept
    assert kept <= promised | newest | {oldest}
