"""How the options show themselves in a form: what nobody touches stays absent, and so is not given.

Prefect's form fills in every default that the JSON schema names, and sends all of them: each would count as given, and
beat the environment and the profile. So the schema names none; what holds where a field is left alone is said in its
description. Nothing here changes what the model accepts.
"""

from datetime import timedelta
from typing import Any, Final, cast

from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo

from hyperexport.base.units import format_duration

_NULL: Final = {"type": "null"}
_SPELLED: Final = {"s3": "S3", "smtp": "SMTP", "tls": "TLS", "vms": "VMs"}


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
        shown["title"] = fields[name].title or _title(name)
        words = _default_in_words(fields[name].default)
        if words and "description" in shown:
            shown["description"] = f"{shown['description']} Default: {words}."
        if shown.get("type") == "boolean":
            # As a boolean, Prefect's form would show a switch, which is off, and send that. So it is a choice of two.
            del shown["type"]
            shown["enum"] = [True, False]


class Shown:
    """Which groups a flow's form shows: those that the flow reads. To be named in the annotation of its options.

    Only the form is narrowed. Whoever calls may give the others, too: the same options are meant for several flows.
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


def _title(name: str) -> str:
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def _default_in_words(default: object) -> str | None:
    """Say what holds where nobody says anything; None where that is nothing, or off."""
    if default is None or default is False or default == ():
        return None
    if isinstance(default, timedelta):
        return format_duration(default)
    return "yes" if default is True else str(default)
