"""Flows whose parameters are written down for the server without FastAPI.

Prefect 3.8 imports FastAPI for its ``jsonable_encoder`` when a flow that has parameters begins, which takes a tenth of
what a short run takes in all. pydantic, which is there anyway, writes the same.
"""

from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.client.schemas.objects import State
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

P = ParamSpec("P")
R = TypeVar("R")


class LightFlow(Flow[P, R]):
    """A flow that writes its parameters down without FastAPI."""

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Write parameters down as JSON values; other kinds than names, numbers and models Prefect itself does."""
        if all(
            isinstance(value, BaseModel | str | int | float | None) and not isinstance(value, State)
            for value in parameters.values()
        ):
            with suppress(PydanticSerializationError):
                return to_jsonable_python(parameters, by_alias=True)
        return super().serialize_parameters(parameters)
