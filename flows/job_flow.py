"""How a flow of ours is declared.

Beside what Prefect's own ``@flow`` does, such a flow takes options flat (``export_vm("db01", snapshot=True)``), has a
signature that fits a screen, a form with titles, and keeps a small result (``hyperexport/views/run_summary.py``).
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec, TypeVar, Union, Unpack, cast, get_args, get_origin

from prefect import Flow
from prefect.serializers import JSONSerializer
from prefect.utilities.callables import ParameterSchema, parameter_schema
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hyperexport.flows.outcome import report_failures
from hyperexport.flows.run_names import run_name
from hyperexport.model.restore import RestoreRequest
from hyperexport.options.form import title_of
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection, make_selection
from hyperexport.workarounds.flow_completion import complete_flow_keywords
from hyperexport.workarounds.parameters import LightFlow

P = ParamSpec("P")
R = TypeVar("R")

SUMMARIES: Final = JSONSerializer(object_encoder="hyperexport.views.run_summary.summary_of", object_decoder=None)
"""Writes of a result only its summary, as JSON that any Python with Prefect reads."""

_PREFECTS_OWN: Final = frozenset({"return_state", "wait_for"})
_BELOW_THE_OTHERS: Final = 99

_TITLES: Final = {
    "at": "Newest export until",
    "into": "Target folder",
    "inventory": "Look for VMs without an export",
    "libvirt": "Domain for libvirt",
    "memory_mib": "Memory (MiB)",
    "most": "Number of VMs at most",
    "profile": "Export profile",
    "rpo": "Oldest good export allowed",
    "runs": "Runs that are over",
    "timeout_minutes": "Timeout (minutes)",
    "to": "Target format",
    "vsphere": "vSphere credentials",
    "within_days": "VMs without a drill for (days)",
    "sample_days": "A random part, all within (days)",
}
"""The titles of parameters whose names do not say enough in a form."""


class JobFlow(LightFlow[P, R]):
    """A flow that takes the fields of its options, its selection and its restore as keywords of its own."""

    _form: ParameterSchema | None = None

    def _show_in_form(self) -> None:
        """Have Prefect make the form of the signature with titles; a run needs the one with plain defaults."""
        self.__signature__ = cast("FormSignature", inspect.signature(self.fn)).in_form()
        self._form = None

    def keywords(self) -> list[str]:
        """What a call takes by name."""
        signature = cast("FormSignature", inspect.signature(self.fn))
        typed = get_args(signature.flat.annotation) if signature.flat else ()
        gathered = [name for each in typed for name in each.__annotations__]
        return list(dict.fromkeys([*signature.parameters, *gathered]))

    if not TYPE_CHECKING:  # whose types Prefect and the function itself declare

        @property
        def parameters(self) -> ParameterSchema:
            """The form, made when it is first asked for: that takes a tenth of a second, and a run needs none."""
            if self._form is None:
                self._form = parameter_schema(self)
            return self._form

        @parameters.setter
        def parameters(self, form: ParameterSchema) -> None:
            self._form = form

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run the flow, as Prefect does."""
            args, kwargs = gather_keywords(self.fn, args, kwargs)
            return super().__call__(*args, **kwargs)

        def with_options(self, **changes: Any) -> "JobFlow[Any, Any]":
            """Make a flow with other settings, as Prefect does; it would make one of its own kind."""
            changed = super().with_options(**changes)
            changed.__class__ = type(self)
            changed._show_in_form()
            return changed


def job_flow(name: str, describe: Callable[[Mapping[str, Any]], str]) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Declare a flow of a job, whose failures are reported in words.

    Args:
        name: The flow's name.
        describe: Names a run by its parameters.
    """

    def declare(function: Callable[P, R]) -> Flow[P, R]:
        reported = report_failures(function)
        signed = cast("Any", reported)
        signed.__signature__ = inspect.Signature()  # Prefect makes a form at once, and the one with titles comes later
        declared = JobFlow(
            reported,
            name=name,
            flow_run_name=run_name(describe),
            persist_result=True,
            result_serializer=SUMMARIES,
        )
        signed.__signature__ = FormSignature.of(function)
        declared._show_in_form()  # pyright: ignore[reportPrivateUsage] - this module's own
        return declared

    return declare


def gather_keywords(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move keywords that are options, or fields of a selection or a restore, into the parameter that holds these.

    Raises:
        UsageError: There is no such option, or its value is invalid.
        TypeError: An argument is missing, or there are too many.
    """
    signature = inspect.signature(function)
    ours = {name: value for name, value in kwargs.items() if name in signature.parameters}
    prefects = {name: value for name, value in kwargs.items() if name in _PREFECTS_OWN}
    flat = {name: value for name, value in kwargs.items() if name not in ours and name not in prefects}
    given = signature.bind_partial(*args, **ours)
    for name, parameter in signature.parameters.items():
        if name not in given.arguments and _default_of(parameter) is inspect.Parameter.empty:
            raise TypeError(f"{function.__name__}() is missing the argument {name!r}")
    for name, (kind, fields, merge) in _GATHERED.items():
        if name in signature.parameters and _without_metadata(signature.parameters[name].annotation) is kind:
            found = {key: flat.pop(key) for key in list(flat) if fields is None or key in fields}
            if found:
                given.arguments[name] = merge(given.arguments.get(name), found)
    return given.args, {**given.kwargs, **flat, **prefects}


def _merge_selection(given: object, fields: dict[str, object]) -> Selection:
    selected = Selection.model_validate(given or {})
    return make_selection({**{name: getattr(selected, name) for name in selected.model_fields_set}, **fields})


def _merge_restore(given: object, fields: dict[str, object]) -> RestoreRequest:
    wish = RestoreRequest.model_validate(given or {})
    return RestoreRequest.of({**wish.model_dump(exclude_unset=True), **fields})


def _merge_options(given: object, fields: dict[str, object]) -> ExportOptions:
    options = ExportOptions.model_validate(given or {})
    return ExportOptions.from_keys({**options.given_keys(), **fields})


_Merge = Callable[[object, dict[str, object]], object]
_GATHERED: Final[dict[str, tuple[type[BaseModel], frozenset[str] | None, _Merge]]] = {
    "selection": (Selection, frozenset(Selection.model_fields), _merge_selection),
    "restore": (RestoreRequest, frozenset(RestoreRequest.model_fields), _merge_restore),
    "options": (ExportOptions, None, _merge_options),  # everything else: what is no option is refused by name
}


class _Words(str):
    """Text that a signature shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class _Parameter(inspect.Parameter):
    """A parameter that Prefect reads with all it needs for the form, and that shows itself as a person writes it."""

    def __str__(self) -> str:
        return str(_plain(self))


class FormSignature(inspect.Signature):
    """A flow's parameters: for Prefect with titles and places in the form, for people in short."""

    flat: inspect.Parameter | None = None
    """The keywords that are gathered, which Prefect does not see."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "FormSignature":
        """Read a flow's function, whose ``**keywords`` are those that :func:`gather_keywords` knows."""
        whole = inspect.signature(function)
        *named, last = whole.parameters.values()
        flat = last if last.kind is inspect.Parameter.VAR_KEYWORD else None
        seen = named if flat else [*named, last]
        shown = [_Parameter(one.name, one.kind, default=one.default, annotation=one.annotation) for one in seen]
        found = cls(shown, return_annotation=whole.return_annotation)
        found.flat = flat
        return found

    def in_form(self) -> "FormSignature":
        """The same with the titles and places of the form, as Prefect takes them."""
        found = FormSignature(
            [_in_form(parameter) for parameter in self.parameters.values()], return_annotation=self.return_annotation
        )
        found.flat = self.flat
        return found

    def __str__(self) -> str:
        plain = [_plain(parameter) for parameter in self.parameters.values()]
        if self.flat:
            plain.append(_plain(self.flat.replace(name="options" if "options" not in self.parameters else "keywords")))
        returned = self.return_annotation
        returned = returned if returned is inspect.Signature.empty else _short(returned)
        return str(inspect.Signature(plain, return_annotation=returned))

    def format(self, **layout: Any) -> str:
        """What Python 3.13 and later print."""
        del layout
        return str(self)


def _in_form(parameter: inspect.Parameter) -> _Parameter:
    """Give a parameter the title and the place that it has in the form."""
    required = parameter.default is inspect.Parameter.empty
    shown: dict[str, Any] = {"title": _TITLES.get(parameter.name) or title_of(parameter.name)}
    if parameter.name == "options":
        shown["position"] = _BELOW_THE_OTHERS
    default = PydanticUndefined if required else parameter.default
    field = cast("Any", Field(default=default, json_schema_extra=shown))
    return _Parameter(parameter.name, parameter.kind, default=field, annotation=parameter.annotation)


def _default_of(parameter: inspect.Parameter) -> Any:
    default = parameter.default.default if isinstance(parameter.default, FieldInfo) else parameter.default
    return inspect.Parameter.empty if default is PydanticUndefined else default


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    default = _default_of(parameter)
    annotation = _short(parameter.annotation)
    if isinstance(default, BaseModel):
        default = _Words(f"{annotation}()")
    elif isinstance(default, StrEnum):
        default = str(default)
    return inspect.Parameter(parameter.name, parameter.kind, default=default, annotation=annotation)


def _short(annotation: Any) -> _Words:
    """An annotation without what only pydantic reads, and without the modules of its names."""
    if get_origin(annotation) is Unpack:
        return _Words(f"Unpack[{get_args(annotation)[0].__name__}]")
    words = inspect.formatannotation(_without_metadata(annotation))
    return _Words(re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", words))


def _without_metadata(annotation: Any) -> Any:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _without_metadata(annotation.__origin__)
    if origin in (Union, UnionType):
        first, *others = map(_without_metadata, get_args(annotation))
        for other in others:
            first |= other
        return first
    return annotation


complete_flow_keywords(lambda called: called.keywords() if isinstance(called, JobFlow) else ())
