"""Whether a run is over, with Prefect to ask: every row of the table in ``tasks/liveness.py``."""

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed, Paused, Running
from pydantic import SecretStr

from hyperexport.base.machine import ProcessIdentity, this_machine
from hyperexport.base.stop import StopSignal
from hyperexport.errors import HyperExportError, VmHeld
from hyperexport.flows import export_vm
from hyperexport.flows.outcome import report_failures
from hyperexport.model.ownership import Owner
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import DiskSpec, Simulator, UserSpec, VmSpec
from hyperexport.steps import logins as steps_logins
from hyperexport.steps.liveness import over_or_acknowledged
from hyperexport.steps.logins import Logins
from hyperexport.tasks import liveness, runner
from hyperexport.tasks.liveness import run_is_at_work, run_is_over, run_may_be_at_work
from hyperexport.tasks.run_keys import RunKey, announce_run_end, sign_tags_of
from hyperexport.tasks.runner import PrefectRunner
from hyperexport.vsphere.session import connect
from tests.engine.conftest import endpoint_of

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


ELSEWHERE = {"machine": "0" * 32, "host": "elsewhere"}


def elsewhere(run: str, **more: object) -> Owner:
    """A tag that a run of another machine made and signed, if it has a key."""
    return a_tag(run).model_copy(update={**ELSEWHERE, **more}).signed()


@pytest.fixture(scope="module")
def vcenter() -> Generator[Simulator]:
    few = UserSpec("few", "secret-1", frozenset({"VApp.Export"}))
    spec = VmSpec("db01", disks=(DiskSpec(1 << 20),))
    with Simulator((spec,), users=(few,)) as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login is looked at as soon as something may have changed."""
    monkeypatch.setattr(steps_logins, "_SECONDS_BETWEEN_LOOKS", 0.05)


LONG = 120.0
"""Seconds: who shows a sign of life does so in that time, however busy the machine is; the watch ends with it."""


@contextmanager
def looking(vcenter: Simulator, *, user: str | None = None, seconds: float = 0.2) -> Generator[Logins]:
    endpoint = endpoint_of(vcenter)
    if user:
        endpoint = endpoint.model_copy(update={"username": user, "password": SecretStr("secret-1")})
    with connect(endpoint) as session:
        yield Logins(session, StopSignal(), seconds=seconds)


def on(vcenter: Simulator) -> dict[str, object]:
    """What a tag of a run on that server says."""
    return {"vcenter": f"{vcenter.host}:{vcenter.port}", "vcenter_uuid": uuid_of(vcenter)}


def uuid_of(vcenter: Simulator) -> str | None:
    with connect(endpoint_of(vcenter)) as session:
        return session.instance_uuid


def judged(owner: Owner, logins: Logins | None = None) -> str:
    over, at_work = run_is_over(owner, logins), run_is_at_work(owner, logins)
    assert not (over and at_work)
    return "over" if over else "at work" if at_work else "unknown"


def test_a_process_that_is_gone_is_over_and_prefect_is_told(run_in) -> None:
    run = run_in(Running)
    assert judged(of_a_dead_process(run)) == "over"
    assert state_of(run) == "CRASHED"


def test_a_tag_that_this_machine_signed_and_the_run_that_it_names_did_not_ends_no_run(run_in) -> None:
    run = run_in(Running)
    sign_tags_of(run)
    assert judged(of_a_dead_process(run)) == "unknown", "another user of this machine can sign as it does"
    assert state_of(run) == "RUNNING"


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


ENDED = [Completed, Failed, Cancelled, Crashed]


@pytest.mark.parametrize("state", ENDED, ids=lambda state: state.__name__)
def test_no_state_in_prefect_alone_ends_a_run_elsewhere(run_in, state) -> None:
    run = run_in(state)
    sign_tags_of(run)
    identity = ProcessIdentity.parse(a_tag(run).process or "")
    assert identity
    container = str(identity._replace(namespace="4026530000-4026531834"))
    for tag in (elsewhere(run), elsewhere(run, machine=a_tag(run).machine, process=container)):
        assert judged(tag) == "unknown"


@pytest.mark.parametrize("state", ENDED, ids=lambda state: state.__name__)
def test_a_run_elsewhere_that_ended_in_prefect_and_whose_login_is_silent_is_over(run_in, vcenter, state) -> None:
    run = run_in(state)
    sign_tags_of(run)
    with looking(vcenter) as logins:
        assert judged(elsewhere(run, **on(vcenter)), logins) == "over"
    with connect(endpoint_of(vcenter), run=run, keep_alive=600), looking(vcenter) as logins:
        assert judged(elsewhere(run, **on(vcenter)), logins) == "over", "killed: its login is there, and does nothing"


@pytest.mark.parametrize("state", ENDED, ids=lambda state: state.__name__)
def test_a_run_elsewhere_whose_login_shows_signs_of_life_is_at_work_whatever_prefect_says(
    run_in, vcenter, state
) -> None:
    run = run_in(state)
    sign_tags_of(run)
    with connect(endpoint_of(vcenter), run=run, keep_alive=0.01), looking(vcenter, seconds=LONG) as logins:
        assert judged(elsewhere(run, **on(vcenter)), logins) == "at work"


def test_a_run_elsewhere_that_logs_in_again_while_it_is_watched_is_at_work(run_in, vcenter, monkeypatch) -> None:
    run = run_in(Crashed)
    sign_tags_of(run)
    tag = elsewhere(run, **on(vcenter))
    watched, found = threading.Event(), []
    monkeypatch.setattr(steps_logins.logger, "warning", lambda *_: watched.set())  # said after the first look
    with looking(vcenter, seconds=LONG) as logins:
        watching = threading.Thread(target=lambda: found.append(judged(tag, logins)))
        watching.start()
        assert watched.wait(LONG)
        with connect(endpoint_of(vcenter), run=run):
            watching.join()
    assert found == ["at work"]


def test_a_login_that_cannot_be_seen_is_no_witness(run_in, vcenter) -> None:
    run = run_in(Crashed)
    sign_tags_of(run)
    with looking(vcenter, user="few") as logins:
        assert judged(elsewhere(run, **on(vcenter)), logins) == "unknown", "the user may not see the logins"
    with looking(vcenter) as logins:
        other = {"vcenter": "another.example.com", "vcenter_uuid": str(uuid.uuid4())}
        assert judged(elsewhere(run, **other), logins) == "unknown", "it is logged in to another server"
        assert judged(elsewhere(run, vcenter="", vcenter_uuid=None), logins) == "unknown", "a cleanup logs in nowhere"


@pytest.mark.parametrize("state", [Running, *ENDED], ids=lambda state: state.__name__)
def test_a_run_that_has_said_itself_that_it_ended_is_over_wherever_it_was(run_in, state) -> None:
    run = run_in(state)
    sign_tags_of(run)
    tag = elsewhere(run)
    hidden = a_tag(run).model_copy(update={"process": None}).signed()
    announce_run_end(run)
    assert judged(tag) == "over"
    assert judged(hidden) == "over"


def test_a_flow_says_at_its_end_that_it_ended_however_it_ends(run_in) -> None:
    made: list[Owner] = []

    @flow
    @report_failures
    def fails(how: str) -> None:
        PrefectRunner()
        made.append(elsewhere(str(flow_run.id)))
        if how == "fails":
            raise HyperExportError("it fails here", fix="Nothing")
        if how == "breaks":
            raise RuntimeError

    fails("well")
    with pytest.raises(HyperExportError):
        fails("fails")
    with pytest.raises(RuntimeError):
        fails("breaks")
    assert [judged(tag) for tag in made] == ["over"] * 3


@pytest.mark.parametrize("state", [Running, *ENDED], ids=lambda state: state.__name__)
def test_a_tag_that_the_run_did_not_sign_is_never_over(run_in, vcenter, state) -> None:
    run, other = run_in(state), run_in(Completed)
    sign_tags_of(run)
    sign_tags_of(other)
    true = elsewhere(run, **on(vcenter))
    announce_run_end(run)
    foreign = elsewhere(other, **on(vcenter))
    forged = [
        true.model_copy(update={"key": None, "voucher": None}),
        true.model_copy(update={"voucher": None}),
        true.model_copy(update={"voucher": "A" * 86}),
        true.model_copy(update={"voucher": "é"}),
        true.model_copy(update={"key": foreign.key, "voucher": foreign.voucher}),
        true.model_copy(update={"thing": "a user's snapshot"}),
        true.model_copy(update={"vm": "another"}),
        true.model_copy(update={"vcenter_uuid": str(uuid.uuid4())}),
        foreign.model_copy(update={"run": run}),
    ]
    stranger = RunKey()
    strange = true.model_copy(update={"key": stranger.public})
    forged.append(strange.model_copy(update={"voucher": stranger.sign(strange.said_by_run())}))
    with looking(vcenter) as logins:
        assert judged(true, logins) == "over", "the control"
        expected = "at work" if state is Running else "unknown"
        assert [judged(tag, logins) for tag in forged] == [expected] * len(forged)


def test_a_state_ends_no_process_that_may_be_on_this_machine(run_in, vcenter) -> None:
    run = run_in(Cancelled)
    sign_tags_of(run)
    tag = a_tag(run).model_copy(update=on(vcenter))
    with looking(vcenter) as logins:
        for changes in ({"process": None}, {"machine": None, "process": None}):
            assert judged(tag.model_copy(update=changes).signed(), logins) == "unknown"
        assert judged(tag.model_copy(update={"proof": None}), logins) == "unknown"


def test_an_earlier_attempt_elsewhere_of_the_run_that_asks_is_over_once_its_login_is_silent(vcenter) -> None:
    found: list[str] = []

    @flow
    def second_attempt() -> None:
        run = str(flow_run.id)
        sign_tags_of(run)
        tag = elsewhere(run, **on(vcenter))
        found.append(judged(tag))
        found.append(judged(tag.model_copy(update={"thing": "a user's"})))
        with looking(vcenter) as logins:
            found.append(judged(tag.model_copy(update={"thing": "a user's"}), logins))
            found.append(judged(tag, logins))

    second_attempt()
    assert found == ["unknown", "unknown", "unknown", "over"]


def test_a_run_that_prefect_never_heard_of_is_unknown(run_in, vcenter) -> None:
    run_in(Running)
    with looking(vcenter) as logins:
        assert judged(elsewhere(str(uuid.uuid4()), **on(vcenter)), logins) == "unknown"
        assert judged(elsewhere("made up", **on(vcenter)), logins) == "unknown"


def test_without_an_answer_a_run_is_unknown_and_the_users_word_is_not_taken(
    run_in, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(Completed)

    def no_client(**_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(liveness, "get_client", no_client)
    assert judged(elsewhere(run)) == "unknown"
    assert not over_or_acknowledged((run,), run_is_over, run_may_be_at_work)(elsewhere(run))


def test_a_user_may_say_that_an_unknown_run_is_over_and_not_that_a_living_one_is(run_in) -> None:
    unknown, living, running = "made up", a_tag(str(uuid.uuid4())), run_in(Running)
    is_over = over_or_acknowledged((unknown, living.run, running), run_is_over, run_may_be_at_work)
    assert is_over(elsewhere(unknown))
    assert not is_over(living)
    assert not is_over(elsewhere(running))
    assert not over_or_acknowledged(("another",), run_is_over, run_may_be_at_work)(elsewhere(unknown))


def test_an_export_removes_what_a_killed_run_elsewhere_left_and_nothing_that_a_forged_tag_names(
    run_in, vcenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in vcenter.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runner, "Logins", partial(Logins, seconds=0.2))
    options = ExportOptions.from_keys({"output": tmp_path, "snapshot": True})
    run, vm = run_in(Crashed), vcenter.vm("db01")
    sign_tags_of(run)
    true = elsewhere(run, **on(vcenter), vm=vm.instance_uuid, thing="theirs")
    vm.take_snapshot("a user's", true.model_copy(update={"thing": "a user's"}).to_description())
    with pytest.raises(VmHeld, match=f"held by run {run}"):
        export_vm("db01", options)
    vm.remove_snapshot(vm.snapshots()[0][0])
    vm.take_snapshot("theirs", true.to_description())
    monkeypatch.setattr(runner, "Logins", partial(Logins, seconds=LONG))
    with connect(endpoint_of(vcenter), run=run, keep_alive=0.01), pytest.raises(VmHeld, match=f"held by run {run}"):
        export_vm("db01", options)
    assert [name for _, name, _, _ in vm.snapshots()] == ["theirs"]
    monkeypatch.setattr(runner, "Logins", partial(Logins, seconds=0.2))
    export_vm("db01", options)
    assert vm.snapshots() == []
