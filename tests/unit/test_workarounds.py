"""Each workaround is still needed. A test that fails here names what Prefect has mended: remove the workaround.

What Prefect's server has of its own is imported by the tests that need it: that takes 0.6 s, and every worker of
pytest-xdist imports this module.
"""

import asyncio
import inspect
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from jsonschema import Draft202012Validator, SchemaError
from packaging.requirements import Requirement
from prefect import Flow, Task, task
from prefect._internal.engine import dynamic_key_for_task_run
from prefect._internal.schemas import validators
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import FlowRunContext
from prefect.deployments.runner import RunnerDeployment
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flow_engine import FlowRunEngine
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    Settings,
    temporary_settings,
)
from prefect.states import Completed
from prefect.task_engine import SyncTaskRunEngine
from prefect.types import _datetime
from prefect.utilities.schema_tools import validation
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.orm import Session as SqlSession

from hyperexport.blocks import ExportProfile, VSphereCredentials
from hyperexport.deployments.definitions import deployment_of, offered_flows
from hyperexport.flows import vm_info
from hyperexport.flows.runtime import OPTIONS
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import Selection
from hyperexport.workarounds.block_types import register_block_type
from hyperexport.workarounds.child_runs import own_child_run
from hyperexport.workarounds.known_schemas import remember_checked_schemas
from hyperexport.workarounds.private import document_id_of, parameter_schema_of
from hyperexport.workarounds.rate_limits import context_without_client_retries
from hyperexport.workarounds.saved_blocks import database_has_block
from hyperexport.workarounds.server_outage import without_client_retries
from hyperexport.workarounds.sqlite_connection import with_single_connection
from hyperexport.workarounds.time_zones import remember_time_zones


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Prefect's settings where nobody set any."""
    for name in ("PREFECT_LOGGING_INTERNAL_LEVEL", "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    return Settings()


def test_prefect_opens_several_connections_to_its_sqlite_database(tmp_path: Path) -> None:
    from prefect.server.database.configurations import AioSqliteConfiguration

    address = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"

    async def most_connections(url: str) -> int:
        pool: Any = (await AioSqliteConfiguration(url).engine()).pool
        return pool.size() + pool._max_overflow

    most = [asyncio.run(most_connections(url)) for url in (address, with_single_connection(address))]
    assert most[0] > 1, "workarounds/sqlite_connection.py is no longer needed"
    assert most[1] == 1


def test_prefects_server_allows_every_origin(defaults: Settings) -> None:
    assert defaults.server.api.cors_allowed_origins == "*", (
        "workarounds/server_settings.py need not restrict the origins"
    )


def test_prefects_server_keeps_the_holders_of_slots_in_memory(defaults: Settings) -> None:
    assert defaults.server.concurrency.lease_storage.endswith(".memory"), "WHOLE_SERVER is no longer needed"


def test_prefect_prints_its_own_errors_unless_told_otherwise(defaults: Settings) -> None:
    assert defaults.internal.logging_level != "CRITICAL", "keep_prefect_quiet need not set the level"


def test_a_blocks_document_id_has_no_public_name() -> None:
    assert not [name for name in dir(Block) if re.fullmatch("(block_)?document_id", name)]
    assert document_id_of(Block()) is None


def test_prefect_makes_the_schema_of_a_block_to_find_the_slug_that_it_registers_it_under(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[type[Block]] = []
    whole = Block._to_block_schema.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Block, "_to_block_schema", classmethod(lambda cls, *a, **k: made.append(cls) or whole(cls, *a, **k))
    )
    registered = [Block.__dispatch_key__.__func__(kind) for kind in (VSphereCredentials, ExportProfile)]  # type: ignore[attr-defined]
    assert made == [VSphereCredentials, ExportProfile], "BlockWithLogo.__dispatch_key__ is no longer needed"
    assert [VSphereCredentials.__dispatch_key__(), ExportProfile.__dispatch_key__()] == registered
    assert len(made) == 2


def test_a_deployments_schema_has_no_public_name() -> None:
    deployment = RunnerDeployment(name="any", flow_name=vm_info.name)
    assert not [name for name in RunnerDeployment.model_fields if "schema" in name and "enforce" not in name]
    assert not hasattr(deployment, "parameter_openapi_schema")
    assert isinstance(vm_info, Flow)
    assert "selection" in parameter_schema_of(vm_info.to_deployment("any"))["properties"]


def test_prefect_asks_no_callable_but_a_function_whether_to_retry() -> None:
    asked: list[str] = []

    class Always:
        def __call__(self, _task: object, _run: object, _state: object) -> bool:
            asked.append("object")
            return True

    def always(_task: Task, _run: TaskRun, _state: State) -> bool:
        asked.append("function")
        return True

    for condition in (Always(), always):
        failing = task(retries=1, retry_condition_fn=condition)(lambda: None)
        engine = SyncTaskRunEngine(failing, task_run=TaskRun(task_key="any", dynamic_key="0"))
        engine.can_retry(ValueError("any"))
    assert asked == ["function"], "retry_condition.py may be a method or a partial now"


@pytest.mark.parametrize(("package", "refused"), [("fastapi", "0.151.0"), ("sqlalchemy", "2.1.0")])
def test_prefect_allows_versions_that_its_server_does_not_work_with(package: str, refused: str) -> None:
    ours, prefects = (
        next(found for each in requires(name) or () if (found := Requirement(each)).name.lower() == package)
        for name in ("hyperexport", "prefect")
    )
    assert prefects.specifier.contains(refused), f"pyproject.toml need not bound {package}"
    assert not ours.specifier.contains(refused)


def test_prefect_finds_a_childs_run_by_counting_the_calls_of_its_parent() -> None:
    run = FlowRun(flow_id=uuid4())
    context = FlowRunContext.model_construct(flow=vm_info, flow_run=run, detached=False, task_run_dynamic_keys={})
    with context:
        tracking = Task(vm_info.fn, name=vm_info.name, version=vm_info.version)
        assert dynamic_key_for_task_run(context, tracking) == 0, "own_child_run is no longer needed"
        keys: set[object] = set()
        for _ in range(3):
            with own_child_run(vm_info):
                inner = FlowRunContext.get()
                assert inner is not None
                keys.add(dynamic_key_for_task_run(inner, tracking))
    assert len(keys) == 3
    assert min(keys) > 1000


NO_SERVER = "http://127.0.0.1:9/api"


def test_a_run_whose_end_cannot_be_reported_raises_the_error_of_prefects_client() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    engine: Any = FlowRunEngine(flow=vm_info, flow_run=FlowRun(flow_id=uuid4()))
    engine._client = SyncPrefectClient(NO_SERVER, httpx_settings={"transport": httpx.MockTransport(refuse)})
    engine._is_started = True
    with without_client_retries(), pytest.raises(httpx.ConnectError):
        engine.set_state(Completed())  # if it returns, flow_calls.py and wait_for_prefect are no longer needed


def test_prefects_client_gives_up_on_a_busy_server_after_a_few_attempts(defaults: Settings) -> None:
    assert defaults.client.max_retries < 10, "tolerate_server_outage need not offer a run again"


def test_prefects_client_tries_many_times_by_default(defaults: Settings) -> None:
    assert defaults.client.max_retries > 1, "few_client_retries is no longer needed"


def test_prefect_reads_no_block_without_a_server() -> None:
    with (
        temporary_settings({PREFECT_API_URL: None, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}),
        pytest.raises(ValueError, match="No Prefect API URL"),
    ):
        get_client(sync_client=True)  # if there is one, workarounds/saved_blocks.py may be no longer needed


def test_a_block_is_found_in_the_database_that_prefect_writes(tmp_path: Path) -> None:
    from prefect.server.database.orm_models import Base, BlockDocument, BlockSchema, BlockType

    database = tmp_path / "prefect.db"
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine, tables=[BlockType.__table__, BlockSchema.__table__, BlockDocument.__table__])
    with SqlSession(engine) as session:
        kind = BlockType(name="Export profile", slug="export-profile")
        session.add(kind)
        session.flush()
        schema = BlockSchema(block_type_id=kind.id, checksum="sha256:0", fields={}, capabilities=[])
        session.add(schema)
        session.flush()
        session.add(BlockDocument(name="nightly", block_type_id=kind.id, block_schema_id=schema.id, data={}))
        session.commit()
    found = [database_has_block(database, block_type="export-profile", name=name) for name in ("nightly", "weekly")]
    assert found == [True, False]
    assert not database_has_block(database, block_type="s3-credentials", name="nightly")


def test_prefect_sends_its_events_at_exit_however_long_that_takes() -> None:
    assert hasattr(EventsWorker, "_at_exit"), "exit_if_unreachable is no longer needed"


def test_prefect_registers_a_block_type_in_two_steps_between_which_another_worker_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[str] = []

    def read(self: object, slug: str) -> None:
        raise ObjectNotFound(Exception(slug))

    def create(self: object, block_type: object) -> None:
        attempts.append("create")
        raise ObjectAlreadyExists(Exception("another worker was first"))

    monkeypatch.setattr(SyncPrefectClient, "read_block_type_by_slug", read)
    monkeypatch.setattr(SyncPrefectClient, "create_block_type", create)
    with temporary_settings({PREFECT_API_URL: NO_SERVER}):
        with pytest.raises(ObjectAlreadyExists):  # else block_types.py is no longer needed
            VSphereCredentials.register_type_and_schema()
        with pytest.raises(ObjectAlreadyExists):
            register_block_type(VSphereCredentials)
    assert len(attempts) == 6


def test_a_denied_request_renews_the_time_of_a_limit_and_does_not_write_its_decay_down() -> None:
    from prefect.server.database import provide_database_interface
    from prefect.server.models.concurrency_limits_v2 import bulk_update_denied_slots

    class Session:
        rowcount = 1
        query: Any

        async def execute(self, query: Any) -> "Session":
            self.query = query
            return self

    session: Any = Session()
    asyncio.run(bulk_update_denied_slots(session=session, concurrency_limit_ids=[uuid4()], slots=1))
    written = {column.name for column in session.query._values}
    assert "active_slots" not in written, "slots may be requested without a look now: rate_limits.py"
    assert provide_database_interface().ConcurrencyLimitV2.__table__.c.updated.onupdate is not None


def test_a_thread_does_not_inherit_temporary_settings() -> None:
    seen: list[int] = []

    def look() -> None:
        seen.append(PREFECT_CLIENT_MAX_RETRIES.value())

    with without_client_retries():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    context_without_client_retries().run(look)
    assert seen[0] > 0, "context_without_client_retries is no longer needed"
    assert seen[1] == 0


def test_prefect_imports_fastapi_to_write_parameters_down() -> None:
    source = inspect.getsource(Flow.serialize_parameters)
    assert "from fastapi.encoders import" in source, "workarounds/parameters.py is no longer needed"


@pytest.mark.parametrize(
    "parameters",
    [
        {"vm": "db01", "options": ExportOptions(), "vsphere": None, "profile": "nightly"},
        {"options": resolve(ExportOptions.model_validate({"destination": {"output": "/exports"}})).options},
        {"options": OPTIONS},
        {"vsphere": VSphereCredentials(url="vc01", username="backup", password=SecretStr("secret"))},
        {"profile": ExportProfile(options={"bandwidth": {"limit": 5}})},
        {"selection": Selection(vm=("db01",)), "disks": (0, 1), "path": Path("/exports"), "age": timedelta(hours=3)},
        {"odd": object(), "options": ExportOptions()},
        {"state": Completed(), "vm": "db01"},
    ],
)
def test_parameters_are_written_down_as_prefect_writes_them(parameters: dict[str, Any]) -> None:
    assert isinstance(vm_info, Flow)
    assert vm_info.serialize_parameters(parameters) == Flow.serialize_parameters(vm_info, parameters)


def test_prefect_makes_the_schema_of_a_flows_parameters_again_for_each_deployment() -> None:
    for flow in offered_flows():
        theirs = flow.to_deployment("any")
        assert isinstance(theirs, RunnerDeployment)
        assert theirs._parameter_openapi_schema is not flow.parameters, "KnownDeployment is no longer needed"
        assert parameter_schema_of(deployment_of(flow, "any")) == parameter_schema_of(theirs)


def test_a_server_checks_a_schema_once_and_one_that_is_wrong_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = {"type": "object", "properties": {"vm": {"type": "string"}}}
    wrong: Any = {"type": "object", "properties": {"vm": {"type": "no type"}}}
    looked: list[object] = []

    def looking(check: Callable[..., None]) -> Callable[..., None]:
        def check_schema(schema: object) -> None:
            looked.append(schema)
            check(schema)

        return check_schema

    for kind in (Draft202012Validator, validation._VALIDATOR):
        monkeypatch.setattr(kind, "check_schema", looking(kind.check_schema))
    validation.validate({"vm": "db01"}, known, raise_on_error=True)
    validation.validate({"vm": "db01"}, known, raise_on_error=True)
    assert len(looked) == 2, "remember_checked_schemas is no longer needed"
    remember_checked_schemas()
    for _ in range(3):
        validation.validate({"vm": "db01"}, known, raise_on_error=True)
        Draft202012Validator.check_schema(known)
    assert len(looked) == 4  # as it was given, and as Prefect checks values by it
    with pytest.raises(validation.ValidationError, match="vm"):
        validation.validate({"vm": 7}, known, raise_on_error=True)
    for _ in range(2):
        with pytest.raises(SchemaError):
            Draft202012Validator.check_schema(wrong)


def test_a_server_checks_a_definition_that_schemas_share_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metaschema holds each definition to what it holds a whole schema to (JSON Schema 2020-12, core, 8.2.4)."""
    shared = {"Shared": {"type": "object", "properties": {"limit": {"type": "number"}}}}
    wrong = {"Wrong": {"type": "no type"}}
    schemas: list[Any] = [{"title": name, "$ref": "#/definitions/Shared", "definitions": shared} for name in "ab"]
    refused: list[Any] = [{"definitions": {**shared, **wrong}}, {"definitions": "rot"}, {"definitions": [shared]}, 7]
    looked: list[object] = []

    def told(schema: Any) -> tuple[list[Any], str]:
        with pytest.raises(SchemaError) as caught:
            validation._VALIDATOR.check_schema(schema)
        return list(caught.value.absolute_path), caught.value.message

    def look(schema: Any, **named: Any) -> None:
        looked.append(schema)
        check(schema, **named)

    by_prefect = [told(schema) for schema in refused]
    check = validation._VALIDATOR.check_schema
    monkeypatch.setattr(validation._VALIDATOR, "check_schema", look)
    monkeypatch.setattr(Draft202012Validator, "check_schema", Draft202012Validator.check_schema)
    remember_checked_schemas()
    for _ in range(2):
        for schema in schemas:
            validation._VALIDATOR.check_schema(schema)
    assert looked.count(shared["Shared"]) == 1
    assert len(looked) == 1 + len(schemas)
    assert [told(schema) for schema in refused] == by_prefect


def test_prefect_looks_the_time_zones_up_for_each_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def looking() -> set[str]:
        looks.append("")
        return {"Europe/Berlin"}

    def schedules() -> int:
        looks.clear()
        for _ in range(3):
            assert CronSchedule(cron="0 1 * * *", timezone="Europe/Berlin").timezone == "Europe/Berlin"
            with pytest.raises(ValueError, match="Atlantis"):
                CronSchedule(cron="0 1 * * *", timezone="Atlantis")
        return len(looks)

    monkeypatch.setattr(_datetime, "available_timezones", looking)
    monkeypatch.setattr(validators, "get_timezones", _datetime.get_timezones)
    assert schedules() == 6, "workarounds/time_zones.py is no longer needed"
    remember_time_zones()
    assert schedules() == 1
