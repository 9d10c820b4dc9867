"""Whether a run is over, with Prefect to ask: every row of the table in ``tasks/liveness.py``."""

import subprocess
import sys
import uuid
from collections.abc import Callable

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Completed, Paused, Running, State

from hyperexport.base.machine import ProcessIdentity, this_machine
from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import over_or_acknowledged
from hyperexport.tasks import liveness
from hyperexport.tasks.liveness import run_is_over, run_may_be_at_work

pytestmark = pytest.mark.skipif(this_machine() is None, reason="This system has no machine id or no /proc.")


@flow
def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def run_in() -> Callable[[Callable[[], State]], str]:
    """A run of Prefect in a state, by its id."""

    def make(state: Callable[[], State]) -> str:
        with get_client(sync_client=True) as client:
            return str(client.create_flow_run(nothing, state=state()).id)

    return make


def state_of(run: str) -> str:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(uuid.UUID(run)).state
    assert state
    return state.type.value


def a_tag(run: str) -> Owner:
    return Owner.of_this_process(run=run, vcenter="vc", vm="4f0e")


def of_a_dead_process(run: str) -> Owner:
    tag = f"Owner.of_this_process(run={run!r}, vcenter='vc', vm='4f0e').model_dump_json()"
    code = f"from hyperexport.model.ownership import Owner; print({tag})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return Owner.model_validate_json(done.stdout)


def elsewhere(run: str) -> Owner:
    return a_tag(run).model_copy(update={"machine": "0" * 32, "host": "elsewhere"})


def judged(owner: Owner) -> str:
    over, at_work = run_is_over(owner), run_may_be_at_work(owner)
    assert not (over and at_work)
    return "over" if over else "at work" if at_work else "unknown"


def test_a_process_that_is_gone_is_over_and_prefect_is_told(run_in) -> None:
    run = run_in(Running)
    assert judged(of_a_dead_process(run)) == "over"
    assert state_of(run) == "CRASHED"


@pytest.mark.parametrize("state", [Running, Completed, Cancelled], ids=lambda state: state.__name__)
def test_a_living_process_is_at_work_whatever_prefect_says(run_in, state) -> None:
    assert judged(a_tag(run_in(state))) == "at work"


@pytest.mark.parametrize("state", [Running, Paused], ids=lambda state: state.__name__)
def test_a_forged_tag_with_a_dead_process_of_this_machine_ends_no_run(run_in, state) -> None:
    run = run_in(state)
    dead = of_a_dead_process(str(uuid.uuid4()))
    before = state_of(run)
    for changes in ({"run": run}, {"run": run, "proof": None}, {"run": run, "proof": "0" * 32}):
        assert judged(dead.model_copy(update=changes)) == "at work"
    assert judged(elsewhere(run)) == "at work"
    assert state_of(run) == before


@pytest.mark.parametrize("state", [Completed, Cancelled], ids=lambda state: state.__name__)
def test_prefect_proves_the_end_of_a_run_elsewhere(run_in, state) -> None:
    run = run_in(state)
    assert judged(elsewhere(run)) == "over"
    identity = ProcessIdentity.parse(a_tag(run).process or "")
    assert identity
    container = str(identity._replace(namespace="4026530000-4026531834"))
    assert judged(a_tag(run).model_copy(update={"process": container})) == "over"


def test_a_state_ends_no_process_that_may_be_on_this_machine(run_in) -> None:
    run = run_in(Cancelled)
    for changes in ({"proof": None}, {"process": None, "proof": None}, {"machine": None, "proof": None}):
        assert judged(a_tag(run).model_copy(update=changes)) == "unknown"


def test_a_run_that_prefect_never_heard_of_is_unknown(run_in) -> None:
    run_in(Running)
    assert judged(elsewhere(str(uuid.uuid4()))) == "unknown"
    assert judged(elsewhere("made up")) == "unknown"


def test_without_an_answer_a_run_may_be_at_work(run_in, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(Completed)

    def no_client(**_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(liveness, "get_client", no_client)
    assert judged(elsewhere(run)) == "at work"


def test_a_user_may_say_that_an_unknown_run_is_over_and_not_that_a_living_one_is(run_in) -> None:
    unknown, living, running = "made up", a_tag(str(uuid.uuid4())), run_in(Running)
    is_over = over_or_acknowledged((unknown, living.run, running), run_is_over, run_may_be_at_work)
    assert is_over(elsewhere(unknown))
    assert not is_over(living)
    assert not is_over(elsewhere(running))
    assert not over_or_acknowledged(("another",), run_is_over, run_may_be_at_work)(elsewhere(unknown))
