"""JSON schemas that were checked once, or made once, and are not again.

Prefect 3.8 makes the schema of a flow's parameters when the flow is defined and again for each of its deployments, and
its server checks whether a schema is one (0.1 s for the options of an export) three times for each deployment that is
created or updated, and for each run of it.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from jsonschema import Draft202012Validator
from prefect import Flow
from prefect.deployments.runner import RunnerDeployment
from prefect.utilities.schema_tools import validation

_MOST: Final = 1000
"""How many schemas are remembered, each with 32 bytes."""


class KnownDeployment(RunnerDeployment):
    """A deployment with the schema that its flow has."""

    def _set_defaults_from_flow(self, flow: Flow[..., Any]) -> None:
        self._parameter_openapi_schema = flow.parameters
        self.version = self.version or flow.version
        self.description = self.description or flow.description


def remember_checked_schemas() -> None:
    """Have this process, a Prefect server, check each schema once. One that is wrong is checked each time."""
    checked: dict[bytes, None] = {}
    for kind in (Draft202012Validator, validation._VALIDATOR):  # pyright: ignore[reportPrivateUsage]
        setattr(kind, "check_schema", _remembering(kind.check_schema, checked))  # noqa: B010 - a method of a class


def _remembering(check: Callable[..., None], checked: dict[bytes, None]) -> Callable[..., None]:
    def check_schema(schema: Any, *more: Any, **named: Any) -> None:
        digest = b""
        with suppress(TypeError, ValueError, RecursionError):  # what is no JSON is not remembered
            digest = hashlib.sha256(json.dumps(schema).encode()).digest()
        if digest in checked and not more and not named:
            return
        check(schema, *more, **named)
        if digest and len(checked) < _MOST:
            checked[digest] = None

    return check_schema
