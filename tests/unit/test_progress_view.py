"""Progress is drawn from the reports alone: a line now and then, or a bar for each item."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from hyperexport.base.units import MIB
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.views.progress import LINE_EVERY, Lines, LiveBars, Rate, showing_progress
from tests.examples import VM


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def moment(position: int, *, moved: int | None = None, stage: Stage = Stage.TRANSFER, **end: bool) -> Progress:
    return Progress(
        vm=VM,
        item="db01-disk-0.vmdk",
        stage=stage,
        position=position * MIB,
        total=100 * MIB,
        moved=(position if moved is None else moved) * MIB,
        **end,
    )


def test_the_rate_is_that_of_the_last_seconds(clock):
    rate = Rate(clock)
    assert rate.update(0) == 0
    for _ in range(20):
        clock.now += 1
        rate.update(0)
    clock.now += 1
    assert rate.update(50 * MIB) == pytest.approx(50 * MIB / 5)


def test_a_new_attempt_does_not_make_the_rate_negative(clock):
    rate = Rate(clock)
    rate.update(100 * MIB)
    clock.now += 1
    assert rate.update(0) == 0


def test_without_a_terminal_a_line_comes_only_now_and_then_and_at_the_end(clock):
    stream = io.StringIO()
    lines = Lines(stream, clock)
    for position in range(0, 100, 10):
        lines(moment(position, moved=position // 2))
        clock.now += LINE_EVERY / 4
    lines(moment(100, moved=50, done=True))
    assert stream.getvalue().splitlines() == [
        "db01: db01-disk-0.vmdk: 40 %, 20.0 MB at 2.0 MB/s",
        "db01: db01-disk-0.vmdk: 80 %, 40.0 MB at 2.0 MB/s",
        "db01: db01-disk-0.vmdk: done, 50.0 MB",
    ]


def test_a_line_says_what_is_done_and_that_it_failed(clock):
    stream = io.StringIO()
    lines = Lines(stream, clock)
    lines(moment(10, stage=Stage.VERIFY, failed=True))
    assert stream.getvalue() == "db01: verify db01-disk-0.vmdk: failed, 10.0 MB\n"


def test_the_removal_of_a_snapshot_is_told_in_per_cent(clock):
    stream = io.StringIO()
    lines = Lines(stream, clock)
    for percent in (0, 40):
        lines(Progress(vm=VM, item="before", stage=Stage.REMOVE_SNAPSHOT, position=percent, total=100, moved=0))
        clock.now += LINE_EVERY
    assert stream.getvalue() == "db01: remove snapshot before: 40 %\n"


def test_a_bar_stands_at_the_position_on_the_disk_and_not_at_the_bytes_moved():
    bars = Bars(console=Console(file=io.StringIO()))
    listener = LiveBars(bars)
    listener(moment(25, moved=1))
    listener(Progress(vm=VM, item="other", stage=Stage.TRANSFER, position=0, total=0, moved=0))
    assert [task.percentage for task in bars.tasks] == [25.0, 0.0]
    listener(moment(99, moved=2, done=True))
    assert bars.tasks[0].finished


def test_showing_progress_listens_only_while_it_lasts():
    stream = io.StringIO()
    with showing_progress(Console(file=stream)):
        report(moment(100, done=True))
    report(moment(100, done=True))
    assert len(stream.getvalue().splitlines()) == 1
