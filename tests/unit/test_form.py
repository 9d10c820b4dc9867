"""What nobody touches in the form of the Prefect UI is not given; tests/ui looks at the form itself."""

import re
from functools import cache
from typing import Any, cast

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from hyperexport import flows
from hyperexport.flows.runtime import options_in_force
from hyperexport.options.precedence import ExportOptions, Leaf, leaves, leaves_by_key
from hyperexport.options.quick import QuickOptions

LEAVES = list(leaves())
FLOWS = [getattr(flows, name) for name in flows.__all__]
WITH_OPTIONS = [flow for flow in FLOWS if flow not in (flows.vm_info, flows.inventory, flows.redo_fleet)]


@cache  # one schema for all tests: none changes it
def schema_of(flow: Any) -> dict[str, Any]:
    return parameter_schema(flow).model_dump()


def groups_of(flow: Any) -> dict[str, dict[str, Any]]:
    """The groups that the flow's form shows, each with its fields."""
    schema = schema_of(flow)
    options = schema["properties"]["options"]
    if "QuickOptions" in schema["definitions"]:
        return {"options": schema["definitions"]["QuickOptions"]["properties"]}
    shown = options.get("properties") or schema["definitions"]["ExportOptions"]["properties"]
    return {
        name: schema["definitions"][group["$ref"].rpartition("/")[2]]["properties"] for name, group in shown.items()
    }


def fields_of(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The fields of a schema and of those within it, without references."""
    found = list(schema.get("properties", {}).items())
    return found + [inner for _, field in found for inner in fields_of(field)]


def field_of(leaf: Leaf) -> dict[str, Any]:
    return groups_of(flows.export_fleet)[leaf.group][leaf.name]


@pytest.mark.parametrize("flow", WITH_OPTIONS, ids=lambda flow: flow.name)
def test_a_form_starts_from_nothing_and_shows_the_options_last(flow) -> None:
    properties = schema_of(flow)["properties"]
    assert properties["options"]["default"] == {}
    assert max(properties, key=lambda name: properties[name]["position"]) == "options"
    assert all("default" not in field for group in groups_of(flow).values() for field in group.values())


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_of_a_form_has_a_title(flow) -> None:
    schema = schema_of(flow)
    shown = [(name, field) for model in (schema, *schema["definitions"].values()) for name, field in fields_of(model)]
    assert [name for name, field in shown if not field.get("title") and "$ref" not in field] == []
    made_of_names = re.compile(r"\bVm\b| [A-Z][a-z]+\b")
    assert [field["title"] for _, field in shown if made_of_names.search(field.get("title", ""))] == []


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_a_field_that_is_left_alone_sends_nothing_and_its_default_is_told(leaf: Leaf) -> None:
    field = field_of(leaf)
    # A switch sends that it is off, and tabs send which of them is on.
    assert field.get("type") != "boolean"
    assert "anyOf" not in field
    if leaf.field.default not in (None, False, ()):
        assert "default: " in field["description"].lower()


@pytest.mark.parametrize(
    ("flow", "groups"),
    [
        (flows.export_vm, "destination snapshot incremental bandwidth execution cleanup email"),
        (flows.quick_export, "options"),
        (flows.export_fleet, " ".join(ExportOptions.model_fields)),
        (flows.incremental_info, "destination snapshot incremental"),
        (flows.cleanup_exports, "destination cleanup"),
        (flows.verify_exports, "destination bandwidth execution"),
        (flows.convert_export, "destination bandwidth execution"),
        (flows.restore_vm, "destination bandwidth execution email"),
        (flows.reap_snapshots, "destination"),
        (flows.send_test_email, "email"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_form_shows_what_its_flow_reads(flow, groups: str) -> None:
    assert list(groups_of(flow)) == groups.split()


@pytest.mark.parametrize(
    "flow", [flows.export_vm, flows.export_fleet, flows.cleanup_exports], ids=lambda flow: flow.name
)
def test_prefect_takes_every_option_whatever_the_form_shows(flow) -> None:
    document = ExportOptions().model_dump(mode="json")
    for group in ("snapshot", "execution"):
        document[group] = {name: value for name, value in document[group].items() if value is not None}
    needed = dict.fromkeys(schema_of(flow).get("required", []), "x")
    validate({**needed, "options": document}, cast("Any", schema_of(flow)), raise_on_error=True)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("bandwidth", "limit", -1),
        ("execution", "parallel", 17),
        ("snapshot", "take", "perhaps"),
        ("destination", "format", "zip"),
        ("destination", "upload", "bucket/prefix"),
        ("destination", "no_such", 1),
    ],
)
def test_prefect_refuses_what_is_out_of_bounds_before_a_run_is_made(group: str, name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        validate(
            {"vm": "x", "options": {group: {name: value}}}, cast("Any", schema_of(flows.export_vm)), raise_on_error=True
        )


def test_nothing_given_leaves_everything_to_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_PARALLEL", "7")
    untouched = flows.export_vm.validate_parameters({"vm": "db01", "options": {}})["options"]
    assert untouched.given_keys() == {}
    assert options_in_force(untouched, None).execution.parallel == 7


@pytest.mark.parametrize("flow", WITH_OPTIONS, ids=lambda flow: flow.name)
def test_prefect_takes_the_blocks_that_are_picked_in_a_form(flow) -> None:
    picked = {"$ref": {"block_document_id": "00000000-0000-4000-8000-000000000001"}}
    parameters = schema_of(flow)["properties"]
    blocks = {name: picked for name in ("vsphere", "profile") if name in parameters}
    needed = dict.fromkeys(schema_of(flow).get("required", []), "x")
    validate({**needed, **blocks}, cast("Any", schema_of(flow)), raise_on_error=True)


def test_the_short_form_has_few_fields_which_are_those_of_the_flags() -> None:
    properties = schema_of(flows.quick_export)["properties"]
    assert [field["title"] for field in properties.values()] == [
        "VM",
        "Export profile",
        "Options",
        "vSphere credentials",
    ]
    assert list(QuickOptions.model_fields) == ["snapshot", "incremental", "verify", "dry_run"]
    (shown,) = groups_of(flows.quick_export).values()
    for key, field in shown.items():
        assert field == field_of(leaves_by_key()[key]), key


def test_no_words_of_a_form_name_a_flag_or_look_like_a_tag() -> None:
    for flow in WITH_OPTIONS:
        for group in groups_of(flow).values():
            for field in group.values():
                assert not re.search(r"--[a-z]|<[a-z]", field["description"], re.I), field


def test_fields_have_titles_in_words() -> None:
    for flow in FLOWS:
        for name, shown in schema_of(flow)["properties"].items():
            title = shown.get("title") or shown["$ref"].rpartition("/")[2]
            assert "_" not in title
            assert title[0].isupper() or title == "vSphere credentials", (flow.name, name, title)
