"""The closing page of a run that failed: the same facts as the mail's, and how to do it again."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from prefect.runtime import deployment, flow_run

from hyperexport.flows.runtime import name_of
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.quick import QuickOptions
from hyperexport.results import FailureReport, FleetMember, FleetResult
from hyperexport.tasks.artifacts import artifact_key, show_markdown
from hyperexport.views.failure import failure_markdown
from hyperexport.views.fleet import ONE_CLICK, export_command

_OF_ONE_VM: Final = frozenset({"export_vm", "quick_export"})

logger = logging.getLogger("hyperexport.flows")


def show_failure(
    error: Exception, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, seconds: float
) -> None:
    """Leave the page with the run. Whatever comes of it, the run fails for its own error.

    Args:
        error: Why it failed.
        function: The flow's function.
        args: What it was called with.
        kwargs: What it was called with, by name.
        seconds: How long it ran.
    """
    if flow_run.id is None:
        return
    try:
        given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
        fleet = getattr(error, "fleet", None)
        failed = fleet.failed if isinstance(fleet, FleetResult) else ()
        name = str(flow_run.name or flow_run.flow_name)
        page = failure_markdown(
            FailureReport.of(error),
            title=name,
            seconds=seconds,
            failed=datetime.now(UTC),
            members=failed,
            commands=_commands(function, given, failed),
            hints=_hints(failed),
        )
        show_markdown(artifact_key("failure", str(given.get("vm") or flow_run.flow_name)), page, f"{name} failed")
    except Exception:
        logger.warning("the page about the failure could not be written", exc_info=True)


def _commands(function: Callable[..., Any], given: Mapping[str, Any], failed: Sequence[FleetMember]) -> list[str]:
    """The command that does it again; none where a flow has no command of the same parameters."""
    vms = [member.vm.path for member in failed] or ([given["vm"]] if function.__name__ in _OF_ONE_VM else [])
    options = given.get("options")
    if not vms:
        return []
    if isinstance(options, QuickOptions):
        options = options.as_export_options()
    options = options if isinstance(options, ExportOptions) else ExportOptions()
    blocks = {name: name_of(given.get(name)) for name in ("vsphere", "profile")}
    return [export_command(vms, options, **blocks)]


def _hints(failed: Sequence[FleetMember]) -> list[str]:
    if deployment.id is None:
        return [] if failed else ["Call the flow again with the same parameters"]
    return [ONE_CLICK] if failed else ["Retry this run in the Prefect UI (Retry, on the run's page)"]
