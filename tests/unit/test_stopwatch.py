"""Stages that overlap count once, and the snapshot's time is that of the run's own snapshot."""

import threading
from contextlib import suppress

import pytest

from hyperexport.model.manifest import StageName
from hyperexport.steps import stopwatch
from hyperexport.steps.stopwatch import Stopwatch


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for the test to move."""
    moment = [100.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: moment[0])
    return moment


def test_steps_side_by_side_count_once_and_a_repeated_step_counts_again(now: list[float]):
    measured = Stopwatch()
    with measured.running(StageName.DISKS):
        now[0] += 2
        with measured.running(StageName.DISKS):
            now[0] += 3
        now[0] += 1
    now[0] += 50
    with measured.running(StageName.DISKS):
        now[0] += 4
    assert measured.stages == {StageName.DISKS: 10.0}


def test_a_stage_that_fails_is_measured_and_one_that_goes_on_is_not_shown(now: list[float]):
    measured = Stopwatch()
    with suppress(ZeroDivisionError), measured.running(StageName.PLAN):
        now[0] += 5
        raise ZeroDivisionError
    with measured.running(StageName.DESCRIBE):
        assert measured.stages == {StageName.PLAN: 5.0}


def test_only_the_end_of_the_runs_own_snapshot_ends_its_time(now: list[float]):
    measured = Stopwatch()
    measured.snapshot_removed("snapshot-of-a-dead-run")
    measured.snapshot_made("snapshot-1")
    now[0] += 7
    measured.snapshot_removed("snapshot-of-somebody")
    assert measured.snapshot_held is None
    measured.snapshot_removed("snapshot-1")
    assert measured.snapshot_held == 7.0


def test_threads_measure_without_losing_one():
    measured = Stopwatch()

    def work() -> None:
        for _ in range(200):
            with measured.running(StageName.DISKS):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(measured.stages) == [StageName.DISKS]
