"""Which virtual machines are chosen: by name, by folder, by tag, by pattern.

A selection is what stands beside the options: a flow's parameter, ``--vm`` and its siblings on the command line, and
``HYPEREXPORT_VM`` and its siblings in the environment. ``steps/selection.py`` looks the VMs up.
"""

import shlex
from collections.abc import Iterator
from typing import Any, cast

from pydantic import ConfigDict, ValidationError, field_validator, model_validator

from hyperexport.errors import UsageError
from hyperexport.model.vm import Value
from hyperexport.options.declaring import option
from hyperexport.options.lists import Names
from hyperexport.options.precedence import ENV_PREFIX, Leaf, read_environment


class Selection(Value):
    """The VMs named, and besides them those that lie in a folder, have a tag and match a pattern, as far as asked."""

    model_config = ConfigDict(field_title_generator=lambda name, _: "VM" if name == "vm" else name.capitalize())

    vm: Names = option((), "A VM's name or whole inventory path, exactly", flag="--vm", examples=["NAME"])
    folder: Names = option(
        (),
        "Every VM in this folder, datacenter or vApp, at any depth",
        flag="--folder",
        examples=["/DC0/vm/production"],
    )
    tag: Names = option((), "Every VM with this vSphere tag", flag="--tag", examples=["CATEGORY:NAME"])
    match: Names = option(
        (), "Every VM whose name or whole path matches this pattern, with * and ?", flag="--match", examples=["web-*"]
    )

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, value: object) -> object:
        return cast("object", {"vm": value} if isinstance(value, str | list | tuple) else value)

    @field_validator("*")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("tag")
    @classmethod
    def _category_and_name(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(":" in tag[1:-1] for tag in value):
            raise ValueError("a tag is written with its category, as CATEGORY:NAME")
        return value

    def __bool__(self) -> bool:
        return bool(self.vm or self.filters)

    def __str__(self) -> str:
        words = [f"{leaf.flag} {shlex.quote(word)}" for leaf in selection_leaves() for word in self.of(leaf)]
        return " ".join(words) or "nothing"

    @property
    def filters(self) -> bool:
        """Whether VMs are chosen otherwise than by name, so that there may be any number of them."""
        return bool(self.folder or self.tag or self.match)

    @property
    def one(self) -> str | None:
        """The name, where exactly one VM is named and nothing else is asked for."""
        return self.vm[0] if len(set(self.vm)) == 1 and not self.filters else None

    def of(self, leaf: Leaf) -> tuple[str, ...]:
        """The words given for one of the flags."""
        return cast("tuple[str, ...]", getattr(self, leaf.name))


def selection_leaves() -> Iterator[Leaf]:
    """Walk the flags that choose VMs, as :func:`hyperexport.options.precedence.leaves` walks the options."""
    for name, field in Selection.model_fields.items():
        yield Leaf(name, str(cast("dict[str, Any]", field.json_schema_extra)["flag"]), "selection", name, field)


def selection_in_force(given: Selection) -> Selection:
    """What was given, or else what this process's environment chooses.

    A selection is taken whole from one place: ``--vm db01`` means db01 alone, whatever ``HYPEREXPORT_FOLDER`` says.

    Raises:
        UsageError: No VM is chosen, or a variable is invalid.
    """
    chosen = given or selection_from_environment()
    if not chosen:
        raise UsageError("no VM is named", fix="Name one with --vm, or choose with --folder, --tag or --match")
    return chosen


def make_selection(values: dict[str, object]) -> Selection:
    """Build a selection from keys.

    Raises:
        UsageError: A value is invalid; the message names the flag.
    """
    try:
        return Selection.model_validate(values)
    except ValidationError as error:
        raise _usage_error(error) from error


def selection_from_environment() -> Selection:
    """What this process's environment chooses.

    Raises:
        UsageError: A variable is invalid.
    """
    fields = {name: ((ENV_PREFIX + name.upper(),), field) for name, field in Selection.model_fields.items()}
    read = read_environment(fields, lambda error: _usage_error(error).what)
    try:
        return Selection(**read)
    except ValidationError as error:
        raise _usage_error(error) from error


def _usage_error(error: ValidationError) -> UsageError:
    detail = error.errors(include_url=False, include_input=False)[0]
    flag = f"--{detail['loc'][0]}" if detail["loc"] else "the selection"
    return UsageError(f"{flag}: {detail['msg'].removeprefix('Value error, ')}")
