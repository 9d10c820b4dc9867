"""JSON schemas that were checked once, or made once, and are not again.

Prefect 3.8 makes the schema of a flow's parameters when the flow is defined and again for each of its deployments, and
its server checks whether a schema is one (0.1 s for the options of an export) three times for each deployment that is
created or updated, and for each run of it. The schemas of our flows have most of their definitions in common.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Hashable
from contextlib import suppress
from typing import Any, Final, cast

from jsonschema import Draft202012Validator, SchemaError
from prefect import Flow
from prefect.deployments.runner import RunnerDeployment
from prefect.utilities.schema_tools import validation

_MOST: Final = 1000
"""How many definitions are remembered, each with 32 bytes."""


class KnownDeployment(RunnerDeployment):
    """A deployment with the schema that its flow has."""

    def _set_defaults_from_flow(self, flow: Flow[..., Any]) -> None:
        self._parameter_openapi_schema = flow.parameters
        self.version = self.version or flow.version
        self.description = self.description or flow.description


def remember_checked_schemas() -> None:
    """Have this process, a Prefect server, check each definition once. One that is wrong is checked each time."""
    checked: dict[Hashable, None] = {}
    for kind in (Draft202012Validator, validation._VALIDATOR):  # pyright: ignore[reportPrivateUsage]
        setattr(kind, "check_schema", _remembering(kind.check_schema, checked))  # noqa: B010 - a method of a class


def _remembering(check: Callable[..., None], checked: dict[Hashable, None]) -> Callable[..., None]:
    def check_schema(schema: Any, **named: Hashable) -> None:
        try:
            for part in _parts(schema):
                check_part(part, named)
        except SchemaError:
            check(schema, **named)  # which says where in the whole it is
            raise

    def check_part(part: Any, named: dict[str, Hashable]) -> None:
        known = None
        with suppress(TypeError, ValueError, RecursionError):  # what is no JSON is not remembered
            known = (hashlib.sha256(json.dumps(part).encode()).digest(), *named.items())
        if known in checked:
            return
        check(part, **named)
        if known and len(checked) < _MOST:
            checked[known] = None

    return check_schema


def _parts(schema: Any) -> Generator[Any]:
    """A schema without its definitions, and each of these: it is one if all of them are."""
    if isinstance(schema, dict):
        whole = cast("dict[str, Any]", schema)
        definitions = whole.get("definitions")
        if isinstance(definitions, dict):
            yield {**whole, "definitions": {}}
            yield from cast("dict[str, Any]", definitions).values()
            return
    yield schema
