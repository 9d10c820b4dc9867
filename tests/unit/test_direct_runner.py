"""What runs side by side in this process ends with the first failure."""

import pytest

from hyperexport.base.stop import StopSignal
from hyperexport.errors import DiskFull
from hyperexport.jobs import direct
from hyperexport.jobs.direct import DirectRunner
from hyperexport.steps.step import step


@step(name="move")
def move(disk: int, began: list[int]) -> None:
    began.append(disk)
    raise DiskFull("no room")


@pytest.mark.timeout(60)
def test_a_failure_waits_for_none_that_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SECONDS_TO_STOP", 3600.0)
    began: list[int] = []
    calls = [{"disk": disk, "began": began} for disk in range(20)]
    with pytest.raises(DiskFull):
        DirectRunner().side_by_side(move, calls, max_concurrency=1, stop=StopSignal())
    assert len(began) < len(calls)
