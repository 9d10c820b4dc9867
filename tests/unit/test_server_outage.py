"""A run that is done waits for a Prefect server that is away, and ends as it did even where that stays away."""

from collections.abc import Callable, Iterator

import httpx
import pytest
from prefect.exceptions import FailedRun, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from hyperexport.errors import DiskFull, QuiesceFailed
from hyperexport.flows.outcome import report_failures
from hyperexport.workarounds import server_outage
from hyperexport.workarounds.flow_calls import tolerate_server_outage


class Gone(Exception):
    """What Prefect's client raises in the end."""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What the server says each time that it is looked at; the last word holds."""
    said = [True]
    monkeypatch.setattr(server_outage, "_answers", lambda: said.pop(0) if len(said) > 1 else said[0])
    monkeypatch.setattr(server_outage, "_SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr(server_outage, "SECONDS_AT_A_TERMINAL", 0.05)
    yield said
    server_outage._gone.clear()


def prefects(function: Callable[[], object]) -> Callable[[], object]:
    """Call it as Prefect does: report its outcome, and raise what the client raises where nobody hears it."""

    def run() -> object:
        outcome = report_failures(function)()
        if server_outage.prefect_is_unreachable():
            assert PREFECT_CLIENT_MAX_RETRIES.value() == 0, "it would try for a minute, and then again"
            raise Gone
        return outcome

    return run


def test_a_server_that_answers_is_not_waited_for(answers: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    assert server_outage.wait_for_prefect()
    assert caplog.messages == []


def test_a_server_that_comes_back_is_told(answers: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_outage, "SECONDS_AT_A_TERMINAL", 60)
    answers[:] = [False, False, False, True]
    assert server_outage.wait_for_prefect()
    assert not server_outage.prefect_is_unreachable()


def test_a_server_that_stays_away_is_waited_for_once(answers: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    answers[:] = [False]
    assert not server_outage.wait_for_prefect()
    assert server_outage.prefect_is_unreachable()
    told = len(caplog.messages)
    assert not server_outage.wait_for_prefect()
    assert len(caplog.messages) == told
    answers[:] = [True]
    assert server_outage.wait_for_prefect()
    assert not server_outage.prefect_is_unreachable()


def test_a_worker_waits_longer_than_a_terminal(answers: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr(server_outage.time, "monotonic", lambda: waited.append(next(clock)) or waited[-1])
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "3f1b")
    answers[:] = [False]
    assert not server_outage.wait_for_prefect()
    assert waited[-1] >= server_outage.SECONDS_ON_A_WORKER


def test_a_result_outlives_the_server(answers: list[bool]) -> None:
    answers[:] = [False]
    before = PREFECT_CLIENT_MAX_RETRIES.value()
    assert tolerate_server_outage(prefects(lambda: "exported"))() == "exported"
    assert PREFECT_CLIENT_MAX_RETRIES.value() == before


def test_a_failure_outlives_the_server_as_itself(answers: list[bool]) -> None:
    answers[:] = [False]

    def fail() -> None:
        raise DiskFull("no room")

    with pytest.raises(DiskFull, match="no room"):
        tolerate_server_outage(prefects(fail))()


def test_what_fails_before_the_function_has_ended_is_not_hidden(answers: list[bool]) -> None:
    answers[:] = [False]

    def never_begins() -> None:
        raise Gone

    with pytest.raises(Gone):
        tolerate_server_outage(never_begins)()


def test_the_outcome_of_a_flow_within_is_not_taken_for_that_of_the_flow_around_it(answers: list[bool]) -> None:
    def fleet() -> str:
        assert report_failures(lambda: "a member")() == "a member"
        return "the fleet"

    answers[:] = [True, False]
    assert tolerate_server_outage(prefects(fleet))() == "the fleet"


def busy() -> PrefectHTTPStatusError:
    """What Prefect's client raises when it was refused for the moment six times."""
    request = httpx.Request("POST", "http://127.0.0.1/api/task_runs/")
    return PrefectHTTPStatusError("busy", request=request, response=httpx.Response(503, request=request))


def test_a_run_that_is_refused_for_the_moment_is_entered_a_moment_later(answers: list[bool]) -> None:
    refusals = iter([busy(), busy()])

    def run() -> object:
        for refusal in refusals:
            raise refusal
        return report_failures(lambda: "exported")()

    assert tolerate_server_outage(run)() == "exported"


def test_a_run_that_has_begun_does_not_begin_again(answers: list[bool]) -> None:
    runs: list[str] = []

    def run() -> object:
        report_failures(lambda: runs.append("begun"))()
        raise busy()

    assert tolerate_server_outage(run)() is None  # what its function returned, whatever the server answers
    assert runs == ["begun"]


def test_a_failure_is_the_functions_own_though_the_server_answers_late(answers: list[bool]) -> None:
    def run() -> object:
        report_failures(quiesce)()
        raise FailedRun("the state of the run is not known yet")

    def quiesce() -> object:
        raise QuiesceFailed("the guest did not freeze")

    with pytest.raises(QuiesceFailed):
        tolerate_server_outage(run)()
