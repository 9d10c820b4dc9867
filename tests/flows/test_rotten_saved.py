"""What is saved in Prefect decides nothing before it is proved: profiles, credentials and the parameters of schedules
that were edited or damaged there are refused in words that name them and the field."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow

import hyperexport
from hyperexport.blocks import ExportProfile, VSphereCredentials
from hyperexport.blocks.export_profile import delete_profile, saved_names
from hyperexport.cli.main import run
from hyperexport.deployments import schedules
from hyperexport.errors import HyperExportError, UsageError
from hyperexport.flows import cleanup_exports, export_fleet, export_vm
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.flows.support import exports_in


@pytest.fixture(autouse=True)
def no_profile_stays() -> Iterator[None]:
    yield
    for name in saved_names():
        delete_profile(name)


@pytest.fixture(scope="module")
def three_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three exports of one VM."""
    root = tmp_path_factory.mktemp("store") / "exports"
    with Simulator([VmSpec("db01", disks=(DiskSpec(1 << 20),))]) as simulator, pytest.MonkeyPatch.context() as patch:
        for name, value in simulator.environment().items():
            patch.setenv(name, value)
        for _ in range(3):
            hyperexport.export("db01", output=root, snapshot=True)
    return root


@pytest.fixture
def filled(store: Path, three_exports: Path) -> Path:
    """A copy of them, which the test may damage."""
    shutil.copytree(three_exports, store)
    return store


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The scheduled cleanup whose parameters the tests edit."""
    schedules.apply(plan_of(tmp_path_factory.mktemp("unused")))
    yield
    schedules.remove("cleanup-exports/nightly")


@pytest.fixture
def answer(capsys) -> Callable[..., tuple[int, str, str]]:
    def ask(*words: str) -> tuple[int, str, str]:
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ask


def edit_block(kind: str, name: str, data: dict[str, Any]) -> None:
    """Put other data into a saved block, as whoever has the API can, or a database that rots."""
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name(name, kind, include_secrets=True)
        client.request(
            "PATCH",
            "/block_documents/{id}",
            path_params={"id": document.id},
            json={"data": data, "merge_existing_data": False},
        )


DAMAGED_DOCUMENTS = [
    pytest.param({"options": {"snapshot": True}, "dry_run": True}, "no field dry_run", id="an option beside"),
    pytest.param({"options": "rot"}, "options: Input should be a valid dictionary", id="no mapping"),
    pytest.param({"options": [["snapshot", True]]}, "options: Input should be a valid dictionary", id="a list"),
    pytest.param({}, "options: Field required", id="nothing"),
    pytest.param({"Options": {"snapshot": True}}, "options: Field required", id="another key"),
    pytest.param({"options": {}, "saved_with": {"a": 1}}, "saved_with: ", id="no version"),
    pytest.param({"options": {"snapshot": True, "warp_speed": 9}}, "no option warp_speed", id="an unknown option"),
    pytest.param({"options": {"snapshot": {"take": {"deep": True}}}}, "--snapshot: ", id="a group for a value"),
    pytest.param({"options": {"snapshot": {"tak": True}}}, "no option snapshot.tak", id="an unknown field of a group"),
    pytest.param({"options": {"snapshot": None}}, "--snapshot: ", id="null"),
    pytest.param({"options": {"keep_snapshots": 99}}, "--keep-snapshots: ", id="out of bounds"),
    pytest.param({"options": {"cleanup_max_count": True}}, "--cleanup-max-count: true is no", id="true for a count"),
    pytest.param({"options": {"cleanup_max_age": True}}, "--cleanup-max-age: true is no", id="true for an age"),
    pytest.param({"options": {"incremental": "maybe"}}, "--incremental: ", id="a word for yes or no"),
]


@pytest.mark.sample("no mapping", "an unknown option", "true for a count")
@pytest.mark.parametrize(("data", "words"), DAMAGED_DOCUMENTS)
def test_a_damaged_profile_stops_every_flow_before_it_does_anything(vcenter, filled, data, words):
    before = dict(vcenter.requests)
    ExportProfile(options={"snapshot": True}).save("nightly")
    edit_block("export-profile", "nightly", data)
    given = ExportOptions.from_keys({"output": filled})
    calls = [
        lambda: export_vm("db01", given, profile="nightly"),
        lambda: export_fleet(Selection(vm=("db01",)), given, profile="nightly"),
        lambda: cleanup_exports(ExportOptions.from_keys({"output": filled, "cleanup": True}), profile="nightly"),
    ]
    for call in calls:
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value).startswith("profile nightly")
        assert words in str(caught.value)
    assert dict(vcenter.requests) == before, "no flow asked the server anything"
    assert len(exports_in(filled)) == 3


def test_a_profile_given_as_a_block_is_held_to_the_same_fields(vcenter, store):
    edited = ExportProfile.model_validate({"options": {"snapshot": True}, "dry_run": True})
    with pytest.raises(UsageError, match="no field dry_run"):
        export_vm("db01", ExportOptions.from_keys({"output": store}), profile=edited)
    assert not store.exists()


@pytest.mark.parametrize("data", [{"options": "rot"}, {}])
def test_one_damaged_profile_hides_no_other_and_can_be_deleted(answer, data):
    for name in ("a", "b", "c"):
        ExportProfile(options={"parallel": 2}).save(name)
    edit_block("export-profile", "b", data)

    code, out, err = answer("--list-profiles", "--json")
    assert code == 2
    assert [one["name"] for one in json.loads(out)["profiles"]] == ["a", "c"]
    assert "profile b: options: " in err
    assert answer("--show-profile=b")[0] == 2
    assert answer("--delete-profile=b") == (0, "deleted b:\n", "")
    assert saved_names() == ["a", "c"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"url": "vc01"}, "username: Field required"),
        ({"url": ["vc01"], "username": "u", "password": "hunter2"}, "url: "),
        ({"url": "vc01", "username": "u", "password": "hunter2", "thumprint": "AA"}, "no field thumprint"),
    ],
)
def test_a_damaged_credentials_block_is_named_and_its_secrets_are_not(store, data, words):
    VSphereCredentials(url="vc01", username="u", password="hunter2").save("main", overwrite=True)
    edit_block("vsphere-credentials", "main", data)
    with pytest.raises(UsageError) as caught:
        export_vm("db01", ExportOptions.from_keys({"output": store}), vsphere="main")
    assert "vSphere credentials block 'main'" in str(caught.value)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


# -- schedules ---------------------------------------------------------------------------------------------------------


def plan_of(store: Path) -> schedules.PlannedSchedule:
    limits = ExportOptions.from_keys({"output": store, "cleanup": True, "cleanup_max_count": 1})
    return schedules.plan_cleanup("nightly", "24h", limits, profile=None)


def run_edited(parameters: dict[str, Any]) -> State:
    """Run the scheduled cleanup as a worker does, its parameters edited in the API, which was told not to check."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("cleanup-exports/nightly")
        edited = {"parameters": parameters, "enforce_parameter_schema": False}
        client.request("PATCH", "/deployments/{id}", path_params={"id": deployment.id}, json=edited)
        flow_run = client.create_flow_run_from_deployment(deployment.id)
    state = run_flow(cleanup_exports, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")
    assert isinstance(state, State)
    return state


def with_cleanup(changes: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edited(parameters: dict[str, Any]) -> dict[str, Any]:
        options = parameters["options"]
        return {"options": {**options, "cleanup": {**options["cleanup"], **changes}}}

    return edited


DAMAGED_PARAMETERS = [
    pytest.param(lambda good: {**good, "dryrun": True}, "dryrun", id="an unknown parameter"),
    pytest.param(lambda good: {"options": {**good["options"], "clenup": {}}}, "options.clenup", id="an unknown group"),
    pytest.param(with_cleanup({"preserv": ["db*"]}), "options.cleanup.preserv", id="an unknown option"),
    pytest.param(with_cleanup({"max_count": True}), "options.cleanup.max_count", id="true for a count"),
    pytest.param(with_cleanup({"max_count": -1}), "options.cleanup.max_count", id="out of bounds"),
    pytest.param(with_cleanup({"max_age": True}), "options.cleanup.max_age", id="true for an age"),
    pytest.param(with_cleanup({"max_age": "7 moons"}), "options.cleanup.max_age", id="no age"),
    pytest.param(with_cleanup({"enabled": None}), "options.cleanup.enabled", id="null"),
    pytest.param(lambda _: {"options": None}, "options", id="no options"),
    pytest.param(lambda _: {"options": []}, "options", id="a list"),
    pytest.param(lambda good: {**good, "profile": 7}, "profile", id="a number for a profile"),
    pytest.param(lambda good: {**good, "profile": "gone"}, "no profile gone", id="a profile that is gone"),
    pytest.param(
        lambda good: {**good, "profile": {"options": {"dry_run": True}, "x": 1}},
        "no field x",
        id="a field of it",
    ),
    pytest.param(
        lambda good: {**good, "profile": {"options": {"dryrun": True}}}, "no option dryrun", id="an option of a profile"
    ),
]


@pytest.mark.sample("an unknown option", "true for an age", "null", "a profile that is gone")
@pytest.mark.parametrize(("edit", "words"), DAMAGED_PARAMETERS)
@pytest.mark.usefixtures("scheduled")
def test_a_schedule_with_damaged_parameters_deletes_nothing_and_says_which(
    filled: Path, edit: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    before = [str(export) for export in exports_in(filled)]

    ended = run_edited(edit(plan_of(filled).parameters))

    assert ended.is_failed()
    assert words in (ended.message or "")
    assert [str(export) for export in exports_in(filled)] == before


@pytest.mark.usefixtures("scheduled")
def test_the_same_schedule_with_sound_parameters_deletes(filled: Path) -> None:
    newest, *_ = [str(export) for export in exports_in(filled)]
    assert run_edited(plan_of(filled).parameters).is_completed()
    assert [str(export) for export in exports_in(filled)] == [newest]


@pytest.mark.parametrize("key", ["cleanup_max_count", "cleanup_max_age", "parallel", "output", "bandwidth_limit"])
@pytest.mark.parametrize("value", [True, False])
def test_yes_or_no_is_no_number_time_or_path_from_any_face(key: str, value: bool) -> None:
    with pytest.raises(HyperExportError, match="is no value"):
        ExportOptions.from_keys({key: value})
