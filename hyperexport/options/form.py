"""The options as a form: a field that is left alone stays absent, and so is not given.

Prefect's form fills in every default that the JSON schema names, and sends all of them: each would count as given, and
beat the environment and the profile. So the schema names none; what holds where a field is left alone is said in its
description. Nothing here changes what the model accepts.
"""

import re
from copy import deepcopy
from datetime import timedelta
from functools import cache
from typing import Any, Final, cast

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic.fields import FieldInfo

from hyperexport.base.units import format_duration

_FLAG: Final = re.compile(r"--[a-z0-9][a-z0-9-]*")
_NULL: Final = {"type": "null"}
_SPELLED: Final = {
    "mib": "MiB",
    "s3": "S3",
    "smtp": "SMTP",
    "tls": "TLS",
    "url": "URL",
    "vcenter": "vCenter",
    "vm": "VM",
    "vms": "VMs",
}


def omit_defaults(schema: dict[str, Any], model: type[Any]) -> None:
    """Take the defaults out of a model's schema; for pydantic's ``json_schema_extra``.

    That a field may be null goes with them: the form would offer a tab for it. Prefect's server takes null wherever a
    field has a type, no default, and need not be there.
    """
    fields = cast("dict[str, FieldInfo]", model.model_fields)
    for name, shown in cast("dict[str, dict[str, Any]]", schema.get("properties", {})).items():
        shown.pop("default", None)
        kinds = [kind for kind in shown.get("anyOf", ()) if kind != _NULL]
        if len(kinds) == 1:
            del shown["anyOf"]
            shown.update({**kinds[0], **shown})
        shown["title"] = fields[name].title or title_of(name)
        if "description" in shown:
            words = None if "(default:" in shown["description"] else _default_in_words(fields[name].default)
            told = f"{shown['description']} Default: {words}." if words else str(shown["description"])
            shown["description"] = _by_titles(told)
        if shown.get("type") == "boolean":
            # As a boolean, Prefect's form would show a switch, which is off, and send that. So it is a choice of two.
            del shown["type"]
            shown["enum"] = [True, False]


def _by_titles(words: str) -> str:
    """Name fields of the form by their titles where the words name flags."""
    titles = _titles_by_flag()
    return _FLAG.sub(lambda found: f"“{titles[found[0]]}”" if found[0] in titles else found[0], words)


@cache
def _titles_by_flag() -> dict[str, str]:
    from hyperexport.options.precedence import leaves  # noqa: PLC0415 - its options are declared with this module

    found = {leaf.flag: leaf.field.title or title_of(leaf.name) for leaf in leaves()}
    negated = {f"--no-{flag.removeprefix('--')}": f"{title}: false" for flag, title in found.items()}
    return {"--vm": title_of("vm"), **negated, **found}


class Shown:
    """Which groups a flow's form shows: those that the flow reads. To be named in the annotation of its options.

    Only the form is narrowed. A caller may give the others, too: the same options are meant for several flows.
    """

    def __init__(self, *groups: str) -> None:
        """Name the groups."""
        self._groups = groups

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Leave the others out, and do not forbid them."""
        whole = handler.resolve_ref_schema(handler(core))
        groups = whole["properties"]
        return {
            **{key: value for key, value in whole.items() if key != "additionalProperties"},
            "properties": {name: groups[name] for name in self._groups},
        }


YES_NO: Final = {True: "yes", False: "no"}
"""How the form of a block says true and false: the first UI knows no list of two booleans there."""


class ShownInBlock:
    """A field of a block whose form is that of a model, with groups."""

    def __init__(self, kind: type[Any]) -> None:
        """Name the model."""
        self._kind = kind

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Show the model, whole: a flow's form has definitions of the same names that differ."""
        del core, handler
        return deepcopy(_whole(self._kind))


@cache
def _whole(kind: type[Any]) -> dict[str, Any]:
    """The form of a model; made once, as most flows show the same."""
    schema = TypeAdapter(kind).json_schema()
    return cast("dict[str, Any]", _for_block(schema, cast("dict[str, Any]", schema.pop("$defs", {}))))


def _for_block(schema: object, definitions: dict[str, Any]) -> object:
    """Put in what a schema refers to, and lists of yes and no in place of true and false."""
    if isinstance(schema, list):
        return [_for_block(item, definitions) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = cast("dict[str, Any]", schema)
    if "$ref" in found:
        named = definitions[found["$ref"].rpartition("/")[2]]
        found = {**named, **{key: value for key, value in found.items() if key != "$ref"}}
    if found.get("enum") == [*YES_NO]:
        found = {**found, "type": "string", "enum": [*YES_NO.values()]}
    return {key: _for_block(value, definitions) for key, value in found.items()}


class Tabs:
    """What a form calls the alternatives of a parameter, in their order, in place of the names of their types."""

    def __init__(self, *titles: str) -> None:
        """Name them."""
        self._titles = titles

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Name the alternatives."""
        schema = handler(core)
        kinds = cast("list[dict[str, Any]]", schema["anyOf"])
        for kind, title in zip(kinds, self._titles, strict=True):
            # The first UI shows the title of what a reference leads to, but Prefect's server finds that by its title.
            kind["title"] = title
        return schema


def title_of(name: str) -> str:
    """The title of a field in a form, from its name."""
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def _default_in_words(default: object) -> str | None:
    """Describe the default; None where it is nothing, or off."""
    if default is None or default is False or default == ():
        return None
    if isinstance(default, timedelta):
        return format_duration(default)
    return "yes" if default is True else str(default)
