"""The options of an export, through all their faces, and which value wins.

The flow's parameters (and the form in the Prefect UI), the command line, the environment and saved profiles all derive
from :class:`ExportOptions`. To add an option, add one line in ``groups.py`` and one use in the engine. A leaf's
*key* is its flag without the dashes (``--bandwidth-limit`` is ``bandwidth_limit``); the environment, profiles and the
jobs API use keys, so where a leaf lies in a group is only a matter of the form.

Precedence, highest first: what the caller gave, the environment (``HYPEREXPORT_<KEY>``), the profile, the default.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, Literal, NamedTuple, cast

from pydantic import AliasChoices, ConfigDict, Field, ValidationError, create_model, field_validator
from pydantic.fields import FieldInfo

from hyperexport.errors import UsageError
from hyperexport.model.vm import Value
from hyperexport.options.declaring import Group
from hyperexport.options.form import omit_defaults
from hyperexport.options.groups import Bandwidth, Cleanup, Destination, Email, Execution, Fleet, Incremental, Snapshot
from hyperexport.options.lists import NAMES, NamesAsText

ENV_PREFIX: Final = "HYPEREXPORT_"


class ExportOptions(Value):
    """What to do with a VM, and how."""

    model_config = ConfigDict(json_schema_extra=omit_defaults)

    destination: Destination = Field(default_factory=Destination, json_schema_extra={"position": 0})
    snapshot: Snapshot = Field(default_factory=Snapshot, json_schema_extra={"position": 1})
    incremental: Incremental = Field(default_factory=Incremental, json_schema_extra={"position": 2})
    bandwidth: Bandwidth = Field(default_factory=Bandwidth, json_schema_extra={"position": 3})
    execution: Execution = Field(default_factory=Execution, json_schema_extra={"position": 4})
    cleanup: Cleanup = Field(default_factory=Cleanup, json_schema_extra={"position": 5})
    email: Email = Field(default_factory=Email, title="Notifications", json_schema_extra={"position": 6})
    fleet: Fleet = Field(default_factory=Fleet, title="Several VMs", json_schema_extra={"position": 7})

    @field_validator("*", mode="before")
    @classmethod
    def _fresh_groups(cls, value: object) -> object:
        return {} if value is None else value

    @classmethod
    def from_keys(cls, values: Mapping[str, object]) -> "ExportOptions":
        """Build the options from keys, such as ``{"bandwidth_limit": 10}``; each is checked, not yet them together.

        Raises:
            UsageError: A key is not known, or a value is invalid; the message names each.
        """
        known = leaves_by_key()
        unknown = sorted(set(values) - set(known))
        problems = [f"there is no option {', '.join(unknown)}"] if unknown else []
        groups: dict[str, dict[str, object]] = {}
        for key, leaf in known.items():
            if key in values:
                groups.setdefault(leaf.group, {})[leaf.name] = values[key]
        try:
            options = cls.model_validate(groups)
        except ValidationError as error:
            raise UsageError("; ".join([*problems, explain(error)])) from error
        if unknown:
            raise UsageError(problems[0], fix=_suggest(unknown, known))
        return options

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: They do; the message says how.
        """
        groups = [cast("Group", getattr(self, name)) for name in type(self).model_fields]
        found = [words for group in groups if (words := group.contradiction())]
        if self.fleet.spread and self.bandwidth.limit and self.bandwidth.shared is None:
            found.append(
                "with --spread, --bandwidth-limit would be each worker's own: share it with --bandwidth-shared"
            )
        if found:
            raise UsageError("; ".join(found))

    def given_keys(self) -> dict[str, object]:
        """The options that are set, by key: what :meth:`from_keys` would take."""
        given: dict[str, object] = {}
        for leaf in leaves():
            group = cast("Value", getattr(self, leaf.group))
            if leaf.group in self.model_fields_set and leaf.name in group.model_fields_set:
                given[leaf.key] = getattr(group, leaf.name)
        return given

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults, by key, as JSON values: for the manifest and summaries."""
        document = self.model_dump(mode="json")
        default = type(self)().model_dump(mode="json")
        return {
            leaf.key: document[leaf.group][leaf.name]
            for leaf in leaves()
            if document[leaf.group][leaf.name] != default[leaf.group][leaf.name]
        }


def _suggest(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Name the options that are nearest to those that there are not."""
    names = list(known)
    near = [get_close_matches(key.replace("-", "_").casefold(), names, n=1, cutoff=0.8) for key in unknown]
    found = dict.fromkeys(name for names in near for name in names)
    return f"Did you mean {' and '.join(found)}?" if found else "See hyperexport --help for their names"


class Leaf(NamedTuple):
    """One option, wherever it lies."""

    key: str
    flag: str
    group: str
    name: str
    field: FieldInfo

    @property
    def example(self) -> str:
        """What a value looks like, where its form is checked."""
        return str((self.field.examples or [""])[0])

    @property
    def environment(self) -> tuple[str, ...]:
        """The environment variables that set it, the strongest first."""
        long = ENV_PREFIX + self.key.upper()
        return (ENV_PREFIX + self.key.removeprefix("email_").upper(), long) if "_smtp_" in self.key else (long,)


def leaves() -> Iterator[Leaf]:
    """Walk the options, in the order of the form."""
    for group, group_field in ExportOptions.model_fields.items():
        kind = cast("type[Value]", group_field.annotation)
        for name, field in kind.model_fields.items():
            flag = str(cast("dict[str, Any]", field.json_schema_extra)["flag"])
            yield Leaf(flag.removeprefix("--").replace("-", "_"), flag, group, name, field)


def leaves_by_key() -> dict[str, Leaf]:
    """The options by their key in profiles, forms and Python."""
    return {leaf.key: leaf for leaf in leaves()}


Source = Literal["given", "environment", "profile", "default"]


class Resolved(NamedTuple):
    """The options that are in force, and where each came from."""

    options: ExportOptions
    sources: dict[str, Source]


def resolve(given: ExportOptions | None = None, *, profile: Mapping[str, object] | None = None) -> Resolved:
    """Work out the options in force: the one place where what several people said is merged, and checked as a whole.

    Args:
        given: What the caller set; only what was explicitly set counts.
        profile: A saved profile, by key.

    Raises:
        UsageError: An unknown key in the profile, a value that makes no sense anywhere, or a contradiction.
    """
    explicit = given.given_keys() if given else {}
    environment = from_environment()
    merged = {**(profile or {}), **environment, **explicit}
    options = ExportOptions.from_keys(merged)
    options.check()

    def source(key: str) -> Source:
        if key in explicit:
            return "given"
        if key in environment:
            return "environment"
        return "profile" if key in merged else "default"

    return Resolved(options, {leaf.key: source(leaf.key) for leaf in leaves()})


def from_environment() -> dict[str, object]:
    """Read the options that this process's environment sets, by key.

    Raises:
        UsageError: A value is invalid; the message names the variable.
    """
    return read_environment({leaf.key: (leaf.environment, leaf.field) for leaf in leaves()}, explain)


def read_environment(
    fields: Mapping[str, tuple[tuple[str, ...], FieldInfo]], explain: Callable[[ValidationError], str]
) -> dict[str, Any]:
    """Read what variables of this process set; an empty one sets nothing. Their case does not matter.

    pydantic-settings would do the same, but takes longer to import than most commands take in all.

    Args:
        fields: By key, the names of the variables, the strongest first, and what their values have to be.
        explain: Puts into words what is wrong.

    Raises:
        UsageError: A value is invalid; the message names the variable.
    """
    ours = {name.upper(): value for name, value in os.environ.items() if value and name.upper().startswith(ENV_PREFIX)}
    found = {key: (names, field) for key, (names, field) in fields.items() if ours.keys() & set(names)}
    if not found:
        return {}
    wanted: dict[str, Any] = {
        key: (_as_text(field), Field(default=field.default, validation_alias=AliasChoices(*names)))
        for key, (names, field) in found.items()
    }
    model = create_model("Environment", __config__=ConfigDict(hide_input_in_errors=True), **wanted)
    try:
        read = model.model_validate(ours)
    except ValidationError as error:
        raise UsageError(explain(error)) from error
    return {key: getattr(read, key) for key in read.model_fields_set}


def _as_text(field: FieldInfo) -> Any:
    """What a variable holds for the field: several names are written as one text."""
    return NamesAsText if NAMES in field.metadata else field.rebuild_annotation()


def explain(error: ValidationError) -> str:
    """Say in one sentence what pydantic found wrong, naming the option as its user knows it."""
    known = {(leaf.group, leaf.name): leaf for leaf in leaves()}
    parts: list[str] = []
    for detail in error.errors(include_url=False, include_input=False):
        place = tuple(str(part) for part in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        leaf = known.get((place[0], place[1])) if len(place) > 1 else None
        if leaf and detail["type"] == "string_pattern_mismatch":
            message = f"this is not of the form {leaf.example}"
        whole_group = len(place) == 1 and place[0] in ExportOptions.model_fields
        name = leaf.flag if leaf else ".".join(place)
        parts.append(message if whole_group or not name else f"{name}: {message}")
    return "; ".join(parts)
