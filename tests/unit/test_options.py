"""The options model: who wins, what is refused and in whose words, and that every option can be shown."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hyperexport.base.units import MIB
from hyperexport.errors import UsageError
from hyperexport.options.declaring import Format, Group, VerifyMode
from hyperexport.options.groups import Bandwidth, Snapshot
from hyperexport.options.precedence import (
    ExportOptions,
    Leaf,
    explain,
    from_environment,
    leaves,
    leaves_by_key,
    resolve,
)

LEAVES = list(leaves())

# Three values that are not the default, for every option: what is given, in the environment, in the profile.
# An option that is new has no line here, and the first test says so.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "output": ("/a", "/b", "/c"),
    "format": ("ova", "ova", "ova"),
    "upload": ("s3://a/x", "s3://b", "s3://c/y/z"),
    "keep_local": (False, False, False),
    "s3_endpoint": ("https://a:9000", "http://b", "https://c"),
    "s3_credentials": ("aws-credentials/a", "minio-credentials/b", "aws-credentials/c"),
    "snapshot": (True, True, True),
    "delete_snapshot": (True, False, True),
    "snapshot_name": ("a", "b", "c"),
    "snapshot_memory": (True, True, True),
    "snapshot_quiesce": (True, False, True),
    "quiesce_required": (True, True, True),
    "keep_snapshots": (1, 2, 3),
    "consolidate_snapshots": (True, True, True),
    "bandwidth_limit": (1.0, 2.5, 3.0),
    "bandwidth_burst": (1.0, 2.5, 3.0),
    "adaptive_bandwidth": (True, True, True),
    "bandwidth_window": (("22:00-06:00=0",), ("mon,wed 08:00-18:00=5", "sat 00:00-24:00=0"), ("sun 01:00-02:00=1.5",)),
    "bandwidth_shared": ("a", "b.c", "D:1"),
    "incremental": (True, True, True),
    "force_full": (True, True, True),
    "full_after": ("1d", "48h", "90m"),
    "max_chain": (1, 2, 3),
    "synthetic_full": (True, True, True),
    "enable_change_tracking": (True, False, True),
    "transport": ("lease", "auto", "lease"),
    "nbdkit_plugin": ("vddk", "nfc", "vddk"),
    "transport_sample": (1.5, 10, 100),
    "cleanup": (True, True, True),
    "cleanup_max_age": ("1d", "48h", "90m"),
    "cleanup_max_count": (1, 2, 3),
    "cleanup_max_size": (1, 2, 3),
    "cleanup_min_free": (1, 2, 3),
    "cleanup_keep_daily": (1, 2, 3),
    "cleanup_keep_weekly": (1, 2, 3),
    "cleanup_keep_monthly": (1, 2, 3),
    "cleanup_keep_yearly": (1, 2, 3),
    "cleanup_preserve": (("a", "b"), ("c*",), ("d",)),
    "cleanup_trust_clock": (True, True, True),
    "cleanup_dry_run": (True, True, True),
    "verify": ("on", "deep", "on"),
    "dry_run": (True, True, True),
    "parallel": (1, 2, 3),
    "max_vms": (1, 2, 3),
    "leases_per_host": (1, 2, 3),
    "leases_per_vcenter": (1, 2, 3),
    "max_per_host": (1, 2, 3),
    "max_per_datastore": (1, 2, 3),
    "spread": (True, False, True),
    "skip_newer_than": ("1d", "48h", "90m"),
    "email_notify": (True, True, True),
    "email_smtp_host": ("a.example", "b.example", "fd00::25"),
    "email_smtp_port": (25, 2525, 465),
    "email_tls": ("ssl", "none", "ssl"),
    "email_username": ("a", "b@example.com", "c"),
    "email_credentials": ("a", "b", "c-1"),
    "email_from": ("a@example.com", "b@example.com", "c@example.com"),
    "email_to": (("a@example.com", "b@example.com"), ("c@example.com",), ("d@example.com",)),
    "email_on_start": (True, True, True),
    "email_on_complete": (False, False, False),
    "email_on_failure": (False, False, False),
    "notify_webhook": (("slack-webhook/a", "custom-webhook/b"), ("custom-webhook/c",), ("slack-webhook/d",)),
}
# What some options need beside them.
COMPANIONS: dict[str, dict[str, Any]] = {
    "keep_local": {"upload": "s3://bucket"},
    "bandwidth_burst": {"bandwidth_limit": 9},
}
ORDER = ("given", "environment", "profile")


def as_variable(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def value_of(options: ExportOptions, leaf: Leaf) -> object:
    return getattr(getattr(options, leaf.group), leaf.name)


def expected(leaf: Leaf, value: Any) -> object:
    """The value as the model keeps it."""
    return value_of(ExportOptions.from_keys({**COMPANIONS.get(leaf.key, {}), leaf.key: value}), leaf)


# -- precedence -------------------------------------------------------------------------------------------------------


def test_every_option_is_in_the_precedence_table() -> None:
    assert sorted(VALUES) == sorted(leaf.key for leaf in LEAVES)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
@pytest.mark.parametrize("present", [(1, 1, 1), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 1, 0), (0, 1, 0), (1, 0, 0)])
def test_given_beats_environment_beats_profile(
    leaf: Leaf, present: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, environment, profile = VALUES[leaf.key]
    strongest = present.index(1)
    if present[1]:
        monkeypatch.setenv(leaf.environment[-1], as_variable(environment))
    resolved = resolve(
        ExportOptions.from_keys({**COMPANIONS.get(leaf.key, {}), **({leaf.key: given} if present[0] else {})}),
        profile={leaf.key: profile} if present[2] else None,
    )
    assert value_of(resolved.options, leaf) == expected(leaf, VALUES[leaf.key][strongest])
    assert resolved.sources[leaf.key] == ORDER[strongest]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_the_default_holds_where_nobody_says_anything(leaf: Leaf) -> None:
    resolved = resolve()
    assert value_of(resolved.options, leaf) == leaf.field.default
    assert resolved.sources[leaf.key] == "default"


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_a_default_that_was_given_explicitly_beats_environment_and_profile(
    leaf: Leaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leaf.environment[0], as_variable(VALUES[leaf.key][1]))
    given = ExportOptions.from_keys({leaf.key: leaf.field.default})
    companions = COMPANIONS.get(leaf.key, {})
    resolved = resolve(given, profile={**companions, leaf.key: VALUES[leaf.key][2]})
    assert value_of(resolved.options, leaf) == leaf.field.default
    assert resolved.sources[leaf.key] == "given"


def test_options_of_one_group_may_come_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_CLEANUP_MAX_COUNT", "7")
    given = ExportOptions.from_keys({"cleanup": True})
    cleanup = resolve(given, profile={"cleanup_max_size": 9, "cleanup": False}).options.cleanup
    assert (cleanup.enabled, cleanup.max_count, cleanup.max_size) == (True, 7, 9)


def test_what_is_in_force_is_checked_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_SNAPSHOT_QUIESCE", "true")
    with pytest.raises(UsageError, match="memory or a quiesced filesystem, not both"):
        resolve(ExportOptions.from_keys({"snapshot_memory": True}))


# -- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_every_option_has_a_variable_named_after_its_flag(leaf: Leaf) -> None:
    assert "HYPEREXPORT_" + leaf.flag.removeprefix("--").replace("-", "_").upper() in leaf.environment


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_BANDWIDTH_LIMIT", "")
    assert from_environment() == {}


def test_several_words_come_with_commas_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_CLEANUP_PRESERVE", "db*, web01 ,,")
    assert from_environment() == {"cleanup_preserve": ("db*", "web01")}


def test_variables_that_are_not_options_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_VSPHERE_PASSWORD", "hunter2")
    monkeypatch.setenv("PARALLEL", "9")
    assert from_environment() == {}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HYPEREXPORT_PARALLEL", "many"),
        ("HYPEREXPORT_CLEANUP_MAX_AGE", "720"),
        ("HYPEREXPORT_SNAPSHOT", "perhaps"),
        ("HYPEREXPORT_FORMAT", "zip"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable):
        from_environment()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["bandwith_limit", "bandwidth-limit", "", "destination"])
def test_an_unknown_key_is_refused_and_named(key: str) -> None:
    with pytest.raises(UsageError, match=f"there is no option {key}"):
        ExportOptions.from_keys({key: 1})
    with pytest.raises(UsageError, match="there is no option"):
        resolve(profile={key: 1})


def test_whoever_gives_a_half_may_leave_the_other_to_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ExportOptions.from_keys({"keep_local": False, "bandwidth_burst": 5})
    monkeypatch.setenv("HYPEREXPORT_BANDWIDTH_LIMIT", "1")
    options = resolve(given, profile={"upload": "s3://bucket"}).options
    assert (options.destination.upload, options.bandwidth.limit, options.bandwidth.burst) == ("s3://bucket", 1, 5)


@pytest.mark.parametrize("group", [field.annotation for field in ExportOptions.model_fields.values()])
def test_no_group_compares_its_options_before_they_are_merged(group: type[Group]) -> None:
    assert group.__pydantic_decorators__.model_validators == {}


def test_unknown_keys_and_bad_values_are_named_together() -> None:
    with pytest.raises(UsageError, match=r"there is no option foo; --parallel: .*less than or equal to 16"):
        ExportOptions.from_keys({"foo": 1, "parallel": 99})


def test_all_unknown_keys_are_named_at_once() -> None:
    with pytest.raises(UsageError, match="there is no option bar, foo"):
        ExportOptions.from_keys({"foo": 1, "bar": 2, "parallel": 3})


@pytest.mark.parametrize("document", [{"speed": 1}, {"bandwidth": {"limits": 1}}])
def test_an_unknown_field_of_the_form_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExportOptions.model_validate(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("keep_snapshots", -1),
        ("keep_snapshots", 31),
        ("parallel", 0),
        ("parallel", 17),
        ("bandwidth_limit", -1),
        ("bandwidth_limit", 100_001),
        ("bandwidth_burst", 0),
        ("bandwidth_window", "office hours"),
        ("bandwidth_shared", "a/b"),
        ("cleanup_max_count", -1),
        ("cleanup_max_size", -1),
        ("cleanup_min_free", -1),
        ("cleanup_keep_daily", -1),
        ("cleanup_keep_yearly", -1),
        ("cleanup_max_age", "yesterday"),
        ("cleanup_max_age", 720),
        ("cleanup_max_age", "-1h"),
        ("max_chain", -1),
        ("full_after", "30 days"),
        ("format", "zip"),
        ("verify", "twice"),
        ("snapshot_name", ""),
        ("snapshot_name", "x" * 81),
        ("upload", "bucket/prefix"),
        ("upload", "s3://"),
        ("s3_endpoint", "minio:9000"),
        ("s3_credentials", "my-credentials"),
        ("s3_credentials", "aws-credentials/../x"),
        ("snapshot", "perhaps"),
        ("email_smtp_port", 0),
        ("email_smtp_port", 70_000),
        ("email_smtp_host", "smtp://mail"),
        ("email_smtp_host", "mail:25"),
        ("email_tls", "tls1.3"),
        ("email_from", "Backup <a@example.com>"),
        ("email_from", "a@example.com\nBcc: b@example.com"),
        ("email_to", "admin"),
        ("email_to", ("a@example.com", "b@example.com\r\nBcc: c@example.com")),
        ("email_credentials", "../x"),
        ("notify_webhook", "https://hooks.example.com/T0/secret"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_flag(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=leaves_by_key()[key].flag):
        ExportOptions.from_keys({key: value})


def test_a_form_is_explained_by_an_example() -> None:
    with pytest.raises(UsageError, match=r"--upload: this is not of the form s3://bucket/prefix"):
        ExportOptions.from_keys({"upload": "bucket"})


def test_several_mistakes_are_told_in_one_sentence() -> None:
    with pytest.raises(UsageError) as raised:
        ExportOptions.from_keys({"parallel": 0, "keep_snapshots": -1})
    assert "--parallel: " in str(raised.value)
    assert "; " in str(raised.value)
    assert "--keep-snapshots: " in str(raised.value)


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(UsageError) as raised:
        ExportOptions.from_keys({"s3_endpoint": "user:hunter2@minio"})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keep_local": False}, "--no-keep-local needs --upload"),
        ({"keep_local": False, "upload": "s3://b", "format": "ova"}, "cannot be streamed"),
        ({"snapshot_memory": True, "snapshot_quiesce": True}, "not both"),
        ({"snapshot_memory": True, "quiesce_required": True}, "not both"),
        ({"snapshot_quiesce": False, "quiesce_required": True}, "contradicts"),
        ({"bandwidth_burst": 5}, "--bandwidth-burst needs --bandwidth-limit"),
        ({"email_credentials": "a", "email_smtp_host": "b"}, "--email-credentials names the server"),
        ({"email_credentials": "a", "email_tls": "none"}, "--email-credentials names the server"),
    ],
)
def test_options_that_contradict_each_other_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(ExportOptions.from_keys(values))


def test_an_error_outside_the_options_is_told_by_its_place() -> None:
    with pytest.raises(ValidationError) as raised:
        ExportOptions.model_validate({"speed": 1})
    assert explain(raised.value).startswith("speed: ")


# -- what follows from what was given ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("snapshot", "quiesces"),
    [
        (Snapshot(), True),
        (Snapshot(quiesce=False), False),
        (Snapshot(memory=True), False),
        (Snapshot(memory=True, quiesce=False), False),
    ],
)
def test_quiescing_is_the_default_unless_memory_is_taken(snapshot: Snapshot, quiesces: bool) -> None:
    assert snapshot.quiesces is quiesces


@pytest.mark.parametrize(
    ("snapshot", "deletes"),
    [
        (Snapshot(), True),
        (Snapshot(keep=5), False),
        (Snapshot(keep=5, delete=True), True),
        (Snapshot(delete=False), False),
    ],
)
def test_the_snapshot_is_deleted_unless_snapshots_are_kept(snapshot: Snapshot, deletes: bool) -> None:
    assert snapshot.deletes is deletes


def test_bandwidth_is_in_binary_megabytes() -> None:
    limited = Bandwidth(limit=1.5, burst=2)
    assert limited.bytes_per_second == 1.5 * MIB
    assert limited.burst_bytes == 2 * MIB
    assert Bandwidth().bytes_per_second is None
    assert Bandwidth().burst_bytes is None


@pytest.mark.parametrize(
    ("value", "mode"),
    [(True, VerifyMode.ON), (False, VerifyMode.OFF), ("true", VerifyMode.ON), ("No", VerifyMode.OFF), ("deep", "deep")],
)
def test_verify_is_a_switch_and_a_word(value: object, mode: str) -> None:
    assert ExportOptions.from_keys({"verify": value}).execution.verify == mode


def test_durations_are_read_as_people_write_them() -> None:
    options = ExportOptions.from_keys({"full_after": "1h30m", "cleanup_max_age": "P30D"})
    assert options.incremental.full_after == timedelta(minutes=90)
    assert options.cleanup.max_age == timedelta(days=30)


@pytest.mark.parametrize("group", list(ExportOptions.model_fields))
def test_a_group_that_a_form_leaves_out_has_its_defaults(group: str) -> None:
    assert ExportOptions.model_validate({group: None}) == ExportOptions()


# -- keys and JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_what_was_given_comes_back_by_key(leaf: Leaf) -> None:
    values = {**COMPANIONS.get(leaf.key, {}), leaf.key: VALUES[leaf.key][0]}
    options = ExportOptions.from_keys(values)
    assert sorted(options.given_keys()) == sorted(values)
    assert ExportOptions.from_keys(options.given_keys()) == options


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_every_option_survives_json(leaf: Leaf) -> None:
    options = ExportOptions.from_keys({**COMPANIONS.get(leaf.key, {}), leaf.key: VALUES[leaf.key][0]})
    assert ExportOptions.model_validate_json(options.model_dump_json()) == options
    assert ExportOptions.from_keys(options.changed()) == options


def test_only_what_differs_from_its_default_counts_as_changed() -> None:
    options = ExportOptions.from_keys({"parallel": 4, "output": "/x", "full_after": "1d"})
    assert options.changed() == {"output": "/x", "full_after": "1d"}
    assert options.destination.output == Path("/x")
    assert options.destination.format is Format.OVF


def test_no_two_options_share_a_name() -> None:
    assert len({leaf.flag for leaf in LEAVES}) == len(LEAVES)
    variables = [variable for leaf in LEAVES for variable in leaf.environment]
    assert len(set(variables)) == len(variables)


# -- the form ---------------------------------------------------------------------------------------------------------


def schema_of(leaf: Leaf) -> dict[str, Any]:
    schema = ExportOptions.model_json_schema()
    group = schema["properties"][leaf.group]
    reference = group.get("$ref") or group["allOf"][0]["$ref"]
    return schema["$defs"][reference.rpartition("/")[2]]["properties"][leaf.name]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_every_option_has_words_in_the_form(leaf: Leaf) -> None:
    field = schema_of(leaf)
    assert field["title"][0].isupper()
    assert field["description"].endswith(".")
    assert field["description"][0].isupper()
    assert field["flag"] == leaf.flag


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_every_option_has_one_line_of_help(leaf: Leaf) -> None:
    assert leaf.field.description
    assert "\n" not in leaf.field.description
    assert leaf.flag.startswith("--")


def test_the_groups_come_in_the_order_of_the_form() -> None:
    groups = ExportOptions.model_json_schema()["properties"]
    assert [groups[name]["position"] for name in groups] == list(range(len(groups)))


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("snapshott", "Did you mean snapshot?"),
        ("Bandwidth-Limit", "Did you mean bandwidth_limit?"),
        ("email_password", "See hyperexport --help for their names"),
    ],
)
def test_an_option_that_there_is_not_suggests_the_nearest(key: str, fix: str) -> None:
    with pytest.raises(UsageError) as refused:
        ExportOptions.from_keys({key: True})
    assert refused.value.fix == fix
    assert not str(refused.value).endswith("?.")
