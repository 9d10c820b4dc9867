"""Whatever a call to Prefect raises is an error of ours that says what was tried, or a warning where work goes on."""

import ast
import json
import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import prefect.exceptions
import pytest
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import TypeAdapter

import hyperexport
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import parse_duration
from hyperexport.blocks import export_profile
from hyperexport.blocks.s3_credentials import load_s3_settings
from hyperexport.blocks.vsphere_credentials import load_vsphere
from hyperexport.deployments import automations, definitions, schedules, zombie_runs
from hyperexport.errors import HyperExportError, PrefectFailed, ServerUnreachable, UsageError
from hyperexport.flows import fleet_distribution, fleet_retry, verify_exports
from hyperexport.flows.outcome import report_failures
from hyperexport.model.ownership import Owner
from hyperexport.options.groups import Bandwidth, Email, EmailTls
from hyperexport.options.precedence import ExportOptions
from hyperexport.tasks import artifacts, events, lease_limits, liveness, run_keys
from hyperexport.tasks.bandwidth import throttle_of
from hyperexport.tasks.check_prefect import look_at_prefect
from hyperexport.tasks.failure_records import record_failure
from hyperexport.tasks.notifiers import open_notifiers
from hyperexport.workarounds import server_outage
from tests.unit.test_boundaries import kinds, not_ours, prefects

API = "http://login:SeCrEt@prefect.example.com/api"


def unreadable(text: str) -> Exception:
    try:
        TypeAdapter(int).validate_python(json.loads(text))
    except ValueError as error:
        return error
    raise AssertionError


ANSWERS = [
    unreadable("<html>sign in</html>"),
    unreadable('{"detail": "other"}'),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    RuntimeError("Found incompatible versions: client: 3.8, server: 2.20"),
    FileNotFoundError(2, "No such file", "ca.pem"),
    TimeoutError("timed out"),
    ConnectionResetError(104, "reset"),
]
"""What an answer raises that is none of Prefect's, and what a request raises that never leaves this machine."""

FAMILIES = [
    *ANSWERS,
    httpx.ConnectError("refused"),
    httpx.InvalidURL("x"),
    prefect.exceptions.ObjectAlreadyExists(ValueError("x")),
    prefect.exceptions.ObjectLimitReached(ValueError("x")),
    *(error for error in prefects() if isinstance(error, prefect.exceptions.PrefectHTTPStatusError)),
]
"""One of each kind that the code could tell apart; all of them are raised where only the boundary matters."""
EVERY = [*(error for error in prefects() if type(error) is not httpx.HTTPStatusError), *ANSWERS]


@pytest.fixture(autouse=True)
def api() -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: API}):
        yield


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Every request to the Prefect API raises this."""

    def breaking(error: BaseException) -> None:
        def send(*_: object, **__: object) -> None:
            raise error

        async def send_later(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(PrefectHttpxSyncClient, "send", send)
        monkeypatch.setattr(PrefectHttpxAsyncClient, "send", send_later)

    return breaking


def a_plan() -> schedules.PlannedSchedule:
    return schedules.plan_cleanup("nightly", "24h", ExportOptions(), profile=None)


MAIL = Email(notify=True, credentials="mail", sender="a@x.org", to=("b@x.org",), tls=EmailTls.NONE)
CALLS: dict[str, Callable[[], object]] = {
    "load a profile": lambda: export_profile.load_profile("nightly"),
    "save a profile": lambda: export_profile.save_profile("nightly", ExportOptions()),
    "list profiles": export_profile.saved_names,
    "delete a profile": lambda: export_profile.delete_profile("nightly"),
    "load credentials": lambda: load_vsphere("main"),
    "load S3 credentials": lambda: load_s3_settings("aws-credentials/main", endpoint=None),
    "load a mail server": lambda: open_notifiers(MAIL),
    "load a webhook": lambda: open_notifiers(Email(webhooks=("slack-webhook/ops",))),
    "save a schedule": lambda: schedules.apply(a_plan()),
    "list schedules": schedules.schedules,
    "pause a schedule": lambda: schedules.pause("nightly"),
    "resume a schedule": lambda: schedules.resume("nightly"),
    "remove a schedule": lambda: schedules.remove("nightly"),
    "schedule with a block": lambda: schedules._known_block("main"),
    "create automations": lambda: automations.create(ExportOptions(), within=parse_duration("1d")),
    "list automations": automations.automations,
    "remove automations": automations.remove,
    "create a work pool": definitions.ensure_pool,
    "register block types": definitions.ensure_block_types,
    "save a deployment": lambda: definitions.ensure_deployment(
        definitions.deployment_of(verify_exports, "proof", tags=[])
    ),
    "watch over zombie runs": zombie_runs.detect_zombie_runs,
    "list a fleet's runs": fleet_retry.earlier_runs,
    "begin a spread fleet": lambda: fleet_distribution.distribute_exports(None, [], ExportOptions(), [], StopSignal()),
}
"""Every question to Prefect without whose answer the work cannot be done."""


def is_conflict(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status == 409 or isinstance(error, prefect.exceptions.ObjectAlreadyExists)


@pytest.fixture
def in_a_run(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid4()))
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):  # without heartbeats nobody watches over runs
        yield


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("in_a_run")
def test_what_prefect_raises_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[BaseException], None], call: Callable[[], object]
) -> None:
    monkeypatch.setattr(fleet_distribution, "SECONDS_WITHOUT_SERVER", 0)

    def attempt(error: BaseException) -> None:
        broken(error)
        call()

    errors = EVERY if call is schedules.schedules else FAMILIES
    if call is definitions.ensure_pool:  # that it is there already is what was wanted
        errors = [error for error in errors if not is_conflict(error)]
    assert not_ours(errors, attempt, ".") == []


@pytest.mark.parametrize("error", ANSWERS, ids=kinds)
def test_an_answer_that_is_none_is_not_taken_for_a_block_that_is_not_there(
    broken: Callable[[BaseException], None], error: Exception
) -> None:
    broken(error)
    for call in (lambda: load_vsphere("main"), lambda: export_profile.delete_profile("nightly")):
        with pytest.raises(HyperExportError) as caught:
            call()
        assert isinstance(caught.value, PrefectFailed | ServerUnreachable)
        assert "there is no" not in str(caught.value)


def test_no_error_holds_the_login_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(client: Any, request: httpx.Request, *_: object, **__: object) -> httpx.Response:
        response = httpx.Response(422, request=request, json={"detail": "no"})
        raise prefect.exceptions.PrefectHTTPStatusError.from_httpx_error(
            httpx.HTTPStatusError(f"Client error for url '{request.url}'", request=request, response=response)
        )

    monkeypatch.setattr(PrefectHttpxSyncClient, "send", send)
    with pytest.raises(PrefectFailed, match=r"prefect\.example\.com") as caught:
        schedules.schedules()
    assert "SeCrEt" not in str(caught.value)


# -- where the work goes on


OWNER = Owner.of_this_process(run=str(uuid4()), vcenter="vc.example", vm="x").model_copy(update={"boot": "another"})


class Waiting:
    """A run that needs lease slots."""

    name, host, leases, run = "db01", "esx-01", 2, str(uuid4())
    options = ExportOptions.from_keys({"leases_per_vcenter": 2})
    session = SimpleNamespace(address="vc.example")
    stop = StopSignal()

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, words: str) -> None:
        self.warnings.append(words)


def take_slots() -> list[str]:
    job = Waiting()
    with lease_limits.lease_slots(cast("Any", job)) as slots:
        assert slots.max_concurrency == 2
    return job.warnings


def share_bandwidth() -> list[str]:
    with throttle_of(Bandwidth(shared="wan", limit=5)) as throttle:
        return list(throttle.warnings)


def show_progress() -> None:
    with artifacts.progress_artifacts():
        pass


GOES_ON: dict[str, Callable[[], object]] = {
    "keep the failure": lambda: record_failure(UsageError("x")),
    "sign tags": lambda: run_keys.sign_tags_of(str(uuid4())),
    "say that the run ended": lambda: (run_keys.sign_tags_of("x"), run_keys.announce_run_end("x")),
    "show a page": lambda: artifacts.show_markdown("key", "# x", "x"),
    "show progress": show_progress,
    "emit an event": lambda: events.emit_export_failed("db01", UsageError("x"), stopped=False),
    "see whether the server answers": lambda: server_outage.wait_for_prefect(0),
    "a run that may be over": lambda: liveness.run_is_over(OWNER),
    "a run that may be at work": lambda: liveness.run_is_at_work(OWNER),
    "take lease slots": take_slots,
    "share bandwidth": share_bandwidth,
    "check Prefect": lambda: look_at_prefect(ExportOptions(), "vc.example", []),
}
"""Every question to Prefect without whose answer the work goes on."""


@pytest.mark.parametrize("call", GOES_ON.values(), ids=GOES_ON)
@pytest.mark.usefixtures("in_a_run")
def test_work_that_needs_no_answer_goes_on_whatever_prefect_raises(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[BaseException], None], call: Callable[[], object]
) -> None:
    monkeypatch.setattr(server_outage, "SECONDS_ON_A_WORKER", 0)
    monkeypatch.setattr(server_outage, "SECONDS_WHILE_BUSY", 0)
    monkeypatch.setattr(lease_limits, "SERVER_TIMEOUT", 0)
    for error in FAMILIES:
        broken(error)
        call()


@pytest.mark.usefixtures("in_a_run")
def test_a_run_of_which_prefect_gives_no_readable_answer_may_be_at_work(
    broken: Callable[[BaseException], None],
) -> None:
    for error in ANSWERS:
        broken(error)
        assert liveness.run_may_be_at_work(OWNER), kinds(error)


# -- the boundary of every flow


@pytest.mark.parametrize("error", list(prefects()), ids=kinds)
def test_what_a_client_raises_within_a_flow_ends_it_with_words(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[[BaseException], None], error: BaseException
) -> None:
    broken(error)
    monkeypatch.setattr(server_outage, "SECONDS_AT_A_TERMINAL", 0)
    monkeypatch.setattr(logging.getLogger("hyperexport"), "propagate", True)

    @report_failures
    def flow() -> None:
        raise error

    state = cast("Any", flow())
    assert state.is_failed()
    assert isinstance(state.data, HyperExportError)
    assert state.message.endswith(f"[{state.data.code}]")


CALLS_OF_PREFECT = {
    "get_client", "run_deployment", "register_type_and_schema", "emit_event", "create_markdown_artifact",
    "create_table_artifact", "create_progress_artifact", "update_progress_artifact", "create_link_artifact",
    "concurrency", "rate_limit",
}  # fmt: skip
METHODS_OF_PREFECT = {"load", "save", "delete", "apply", "deploy"}
GUARDS = {"translated", "_guarded", "_guarded_when_heard", "retry_until_stopped"}
ROOMS = ("flows", "tasks", "blocks", "deployments")


def is_call_of_prefect(node: ast.Call) -> bool:
    if isinstance(node.func, ast.Name):
        return node.func.id in CALLS_OF_PREFECT
    if not isinstance(node.func, ast.Attribute):
        return False
    own = isinstance(node.func.value, ast.Name) and node.func.value.id in {"json", "tomllib", "schedules"}
    return node.func.attr in CALLS_OF_PREFECT | METHODS_OF_PREFECT and not own


def named(node: ast.AST) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.id if isinstance(node, ast.Name) else ""


def unguarded(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The functions whose calls of Prefect are under no guard, and where."""
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not is_call_of_prefect(node):
            continue
        at: ast.AST = node
        function = ""
        while at in parents:
            inner, at = at, parents[at]
            match at:
                case ast.With() | ast.AsyncWith() if any(named(item.context_expr) in GUARDS for item in at.items):
                    break
                case ast.Try() if inner in at.body and any(
                    handler.type is not None and named(handler.type) == "Exception" for handler in at.handlers
                ):
                    break
                case ast.Call() if named(at) in GUARDS:
                    break
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    function = function or at.name
                    if any(named(one) in GUARDS for one in at.decorator_list):
                        break
        else:
            yield function, node.lineno


GUARDED_BY_CALLER = {
    ("tasks/artifacts.py", "_show_one"),  # _guarded, in _show
    ("tasks/bandwidth.py", "open_budget"),  # throttle_of and check_prefect
    ("flows/fleet_distribution.py", "submit"),  # retry_until_stopped
    ("deployments/jobs_api.py", "_lifespan"),  # opens a client, and asks nothing
    ("deployments/schedules.py", "_deployments"),
    ("deployments/schedules.py", "_shown"),
}


def test_every_call_of_prefect_in_our_rooms_is_under_a_guard() -> None:
    root = Path(str(hyperexport.__file__)).parent.parent
    found: set[tuple[str, str]] = set()
    seen = 0
    for path in sorted(path for room in ROOMS for path in (root / room).glob("*.py")):
        tree = ast.parse(path.read_text())
        seen += sum(isinstance(node, ast.Call) and is_call_of_prefect(node) for node in ast.walk(tree))
        found |= {(str(path.relative_to(root)), function) for function, _ in unguarded(tree)}
    assert seen > 25
    assert found == GUARDED_BY_CALLER
