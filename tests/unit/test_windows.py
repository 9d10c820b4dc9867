"""Another limit at times of the week: read as people write it, and held by the wall clock, also when it is changed."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from hyperexport.model.bandwidth_windows import limit_at, parse_window, split_windows

MONDAY = datetime(2026, 11, 23)  # noqa: DTZ001 - a wall clock shows no zone


def at(day: int, clock: str) -> datetime:
    """A moment of the week that begins on a Monday."""
    hour, minute = clock.split(":")
    return MONDAY + timedelta(days=day, hours=int(hour), minutes=int(minute))


@pytest.mark.parametrize(
    ("window", "within", "outside"),
    [
        ("mon-fri 08:00-18:00=5", [(0, "08:00"), (4, "17:59")], [(0, "07:59"), (0, "18:00"), (5, "12:00")]),
        ("22:00-06:00=0", [(0, "22:00"), (0, "00:00"), (6, "23:59"), (3, "05:59")], [(2, "06:00"), (2, "21:59")]),
        ("fri 22:00-06:00=0", [(4, "22:00"), (5, "05:59")], [(4, "05:00"), (5, "22:00"), (5, "06:00")]),
        ("sun 22:00-06:00=0", [(6, "23:00"), (0, "05:59")], [(0, "23:00"), (6, "05:59")]),
        ("sat,sun 00:00-24:00=0", [(5, "00:00"), (6, "23:59")], [(0, "00:00"), (4, "23:59")]),
        ("fri-mon 12:00-13:00=1", [(4, "12:00"), (5, "12:00"), (6, "12:00"), (0, "12:00")], [(1, "12:00")]),
        ("mon-tue,thu 12:00-13:00=1", [(0, "12:00"), (1, "12:00"), (3, "12:00")], [(2, "12:00")]),
        ("mon-mon 12:00-13:00=1", [(0, "12:00")], [(1, "12:00")]),
        ("SAT 18:00-24:00 = 1.5", [(5, "18:00"), (5, "23:59")], [(6, "00:00")]),
    ],
)
def test_a_window_holds_in_its_time_and_no_other(window, within, outside):
    parsed = parse_window(window)
    assert [moment for moment in within if not parsed.holds(at(*moment))] == []
    assert [moment for moment in outside if parsed.holds(at(*moment))] == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("office hours", "office hours"),
        ("mon-fri 08:00-18:00", "form"),
        ("mon-fri 8:00-18:00=5", "form"),
        ("mon-fri 08:00-18:00=-5", "form"),
        ("mon-fri 08:00-18:00=fast", "form"),
        ("montag 08:00-18:00=5", "montag"),
        ("mon- 08:00-18:00=5", "not a day"),
        ("08:00-25:00=5", "25:00"),
        ("08:60-09:00=5", "08:60"),
        ("08:00-08:00=5", "is empty"),
        ("24:00-08:00=5", "is empty"),
        ("08:00-18:00=100001", "100000"),
    ],
)
def test_what_is_no_window_is_refused_and_named(text, named):
    with pytest.raises(ValueError, match=named):
        parse_window(text)


def test_the_first_window_that_fits_wins_and_outside_of_all_the_limit_holds():
    windows = [parse_window("mon 12:00-13:00=20"), parse_window("mon-fri 08:00-18:00=5")]
    assert limit_at(at(0, "12:30"), windows, 50) == 20
    assert limit_at(at(0, "13:00"), windows, 50) == 5
    assert limit_at(at(0, "18:00"), windows, 50) == 50


def test_commas_stand_between_windows_and_between_the_days_of_one():
    assert split_windows("sat,sun 00:00-24:00=0, mon-fri 08:00-18:00=5,") == (
        "sat,sun 00:00-24:00=0",
        "mon-fri 08:00-18:00=5",
    )


def test_what_is_cut_short_is_still_refused_by_name():
    with pytest.raises(ValueError, match="sat,sun"):
        parse_window(split_windows("sat,sun")[0])


def test_a_change_of_summer_time_makes_a_window_longer_or_shorter_and_nothing_else():
    berlin, window = ZoneInfo("Europe/Berlin"), parse_window("01:00-04:00=5")

    def hours(day: datetime) -> float:
        moments = (day + timedelta(minutes=minute) for minute in range(24 * 60))
        return sum(window.holds(moment.astimezone(berlin)) for moment in moments) / 60

    assert hours(datetime(2026, 10, 24, 12, tzinfo=UTC)) == 4  # the night in which the clock is put back
    assert hours(datetime(2026, 3, 28, 12, tzinfo=UTC)) == 2
    assert hours(datetime(2026, 11, 23, 12, tzinfo=UTC)) == 3
