"""The names of a step's runs are made of its parameters: a parameter that is renamed must be renamed there as well."""

import pkgutil
import string
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import getmembers, isfunction
from typing import Any, get_type_hints

import pytest

import hyperexport.steps
from hyperexport.steps.step import policy_of


def steps() -> Iterator[Callable[..., Any]]:
    for found in pkgutil.iter_modules(hyperexport.steps.__path__):
        module = import_module(f"hyperexport.steps.{found.name}")
        for _, function in getmembers(module, isfunction):
            if function.__module__ == module.__name__ and hasattr(function, "hyperexport_step"):
                yield function


def type_of(kind: Any, attribute: str) -> Any:
    """The declared type of an attribute of a class, be it a field or a property."""
    hints = get_type_hints(kind)
    if attribute in hints:
        return hints[attribute]
    return get_type_hints(getattr(kind, attribute).fget)["return"]


@pytest.mark.parametrize("step", list(steps()), ids=lambda step: step.__name__)
def test_every_field_of_a_runs_name_is_a_parameter_of_the_step_or_an_attribute_of_one(step: Callable[..., Any]) -> None:
    fields = [field for _, field, _, _ in string.Formatter().parse(policy_of(step).run_name) if field]
    for field in fields:
        parameter, *attributes = field.split(".")
        kind = get_type_hints(step)[parameter]
        for attribute in attributes:
            kind = type_of(kind, attribute)
