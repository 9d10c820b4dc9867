"""What each mode of the command line does: ask a flow, show the answer, go on to the next VM.

Prefect and everything that stands on it are imported inside the functions: ``--help`` and a question to the server
must not wait seconds for what they do not use. ``--vm-info`` goes straight to the engine where no Prefect API is
configured, because a temporary server takes ten seconds to start; exports always run as flows.
"""

import getpass
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from hyperexport.base.json_logs import json_logs_wanted
from hyperexport.base.secrets import keep_email_password
from hyperexport.base.stop import StopSignal
from hyperexport.cli import checking, configuration, fleet, observing, profiles, quiet, service, stored, tables
from hyperexport.cli.failures import Failure, exit_code
from hyperexport.cli.output import Output
from hyperexport.cli.progress_view import showing_progress
from hyperexport.cli.request import Mode, Request
from hyperexport.deployments.local_server import configured_api, provide_prefect_api
from hyperexport.errors import Interrupted, StoreUnusable, UsageError
from hyperexport.model.vm import VmInfo
from hyperexport.options.precedence import resolve
from hyperexport.options.selection import Selection

Answer = TypeVar("Answer")


def perform(request: Request, output: Output) -> int:
    """Do what was asked, and say how it went.

    Returns:
        The exit code.
    """
    if request.email_password:
        keep_email_password(request.email_password)
    if request.save_profile is not None and request.mode is not Mode.SAVE_PROFILE:
        _save_profile(request, output)
    failures = _COMMANDS[request.mode](request, output)
    output.finish([{"vm": failure.vm, "code": failure.code, "message": failure.message} for failure in failures])
    return exit_code(failures, asked=max(1, len(request.vms)))


def _vm_info(request: Request, output: Output) -> list[Failure]:
    if output.is_quiet and not (request.vsphere or configured_api()):
        return _brief(request, output)
    vms = _describe(request, output)
    for position, vm in enumerate(vms):
        output.answer(
            "vms",
            pretty=lambda console, vm=vm, position=position: tables.show_one_of_vms(console, vm, position, vms),
            quiet=quiet.vm_lines(vm),
            document={**vm.model_dump(mode="json"), "storage_bytes": vm.storage_bytes},
        )
    return []


def _brief(request: Request, output: Output) -> list[Failure]:
    """Answer with the few lines that scripts read, without reading what they do not say: thousands take seconds."""
    _ask_for_password(request)
    from hyperexport.steps.selection import choose_vms
    from hyperexport.vsphere.endpoint import VSphereEndpoint
    from hyperexport.vsphere.inventory import brief_many
    from hyperexport.vsphere.session import connect

    with connect(VSphereEndpoint.from_environment()) as session:
        for vm in brief_many(session, choose_vms(session, request.selection).all_there()):
            output.answer("vms", pretty=lambda _console: None, quiet=quiet.vm_lines(vm), document={})
    return []


def _describe(request: Request, output: Output) -> list[VmInfo]:
    """Ask about the VMs: by a flow where a Prefect API or a saved block is in use, or else the server directly."""
    _ask_for_password(request)
    if request.vsphere or configured_api():
        _prepare_prefect(output)
        from hyperexport.flows import vm_info

        return vm_info(request.selection, vsphere=request.vsphere)
    from hyperexport.steps.selection import choose_vms
    from hyperexport.vsphere.endpoint import VSphereEndpoint
    from hyperexport.vsphere.inventory import describe_many
    from hyperexport.vsphere.session import connect

    with connect(VSphereEndpoint.from_environment()) as session:
        return describe_many(session, [row.ref for row in choose_vms(session, request.selection).all_there()])


def _export(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    _prepare_prefect(output)
    if request.selection.one is None or request.options.fleet.spread:
        return fleet.export(request, output)
    from hyperexport.flows import export_vm
    from hyperexport.flows.outcome import despite_prefect

    def export(vm: str) -> None:
        with showing_progress(output.errors, quiet=output.is_quiet):
            result = despite_prefect(export_vm)(vm, request.options, vsphere=request.vsphere, profile=request.profile)
        output.answer(
            "exports",
            pretty=lambda console: tables.show_export(console, result),
            quiet=quiet.export_lines(result),
            document=result.model_dump(mode="json"),
        )

    output.nothing("exports")
    return _each(request, export)


def _incremental_info(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    _prepare_prefect(output)
    from hyperexport.flows import incremental_info

    def analyse(vm: str) -> None:
        plan = incremental_info(vm, request.options, vsphere=request.vsphere, profile=request.profile)
        sums = {name: getattr(plan, name) for name in ("transfer_bytes", "saved_bytes", "saved_percent")}
        output.answer(
            "plans",
            pretty=lambda console: tables.show_plan(console, plan),
            quiet=quiet.plan_lines(plan),
            document={**plan.model_dump(mode="json"), **sums},
        )

    output.nothing("plans")
    return _each(_with_names(request), analyse)


def _cleanup(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    from hyperexport.flows import cleanup_exports

    failures: list[Failure] = []
    for result in cleanup_exports(request.options, profile=request.profile):
        output.answer(
            "cleanups",
            pretty=lambda console, result=result: tables.show_cleanup(console, result),
            quiet=quiet.cleanup_lines(result),
            document=result.model_dump(mode="json"),
        )
        if result.failed:
            left = StoreUnusable(f"{len(result.failed)} exports in {result.store} could not be deleted")
            failures.append(_fail(Failure(left), request))
    return failures


def _verify(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    stored.verify(request, output)
    return []


def _reap_snapshots(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    _prepare_prefect(output)
    from hyperexport.flows import reap_snapshots

    with showing_progress(output.errors, quiet=output.is_quiet):
        result = reap_snapshots(request.vsphere, options=request.options, profile=request.profile)
    output.answer(
        "reaped",
        pretty=lambda console: tables.show_reaped(console, result),
        quiet=quiet.reaped_lines(result),
        document=result.model_dump(mode="json"),
    )
    return []


def _list(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect_for_blocks(request, output)
    stored.list_exports(request, output)
    return []


def _report(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect_for_blocks(request, output)
    observing.report(request, output)
    return []


def _metrics(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect_for_blocks(request, output)
    observing.metrics(request, output)
    return []


def _automations(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    observing.automations(request, output)
    return []


def _preserve(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect_for_blocks(request, output)
    stored.preserve(request, output)
    return []


def _config(request: Request, output: Output) -> list[Failure]:
    if request.profile:
        _prepare_prefect(output)
    configuration.show(request, output)
    return []


def _profiles(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    profiles.mind(request, output)
    return []


def _save_profile(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    profiles.save(request, output)
    return []


def _send_test_email(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    from hyperexport.flows import send_test_email

    sent = send_test_email(request.options, profile=request.profile)
    output.answer(
        "sent",
        pretty=lambda console: console.print(*(f"sent: {way}" for way in sent), sep="\n", markup=False, soft_wrap=True),
        quiet=[f"sent={way}" for way in sent],
        document=sent,
    )
    return []


def _check(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    _prepare_prefect(output)
    return checking.check(request, output)


def _schedule(request: Request, output: Output) -> list[Failure]:
    service.check_scheduling(request)
    _prepare_prefect(output)
    service.make_schedules(request, output)
    return []


def _schedules(request: Request, output: Output) -> list[Failure]:
    _prepare_prefect(output)
    service.mind_schedules(request, output)
    return []


def _serve(request: Request, output: Output) -> list[Failure]:
    _keep_prefect_quiet()
    service.serve(request, output)
    return []


def _simulate(request: Request, output: Output) -> list[Failure]:
    from hyperexport.simulator import command

    def announce(ready: command.Ready) -> None:
        output.say(
            f"export GOVC_URL={ready.url}",
            f"export GOVC_USERNAME={ready.username}",
            f"export GOVC_PASSWORD={shlex.quote(ready.password)}",
            f"export GOVC_TLS_CA_CERTS={shlex.quote(ready.ca_file)}",
        )

    try:
        command.run(**dict(request.simulation or {}), on_ready=announce)
    except OSError as error:
        raise UsageError(f"the simulator cannot serve: {error}", fix="Choose another --port or --directory") from error
    return []


_COMMANDS: dict[Mode, Callable[[Request, Output], list[Failure]]] = {
    Mode.VM_INFO: _vm_info,
    Mode.EXPORT: _export,
    Mode.INCREMENTAL_INFO: _incremental_info,
    Mode.CLEANUP: _cleanup,
    Mode.VERIFY: _verify,
    Mode.LIST: _list,
    Mode.PRESERVE: _preserve,
    Mode.CONFIG: _config,
    Mode.SAVE_PROFILE: _save_profile,
    Mode.LIST_PROFILES: _profiles,
    Mode.SHOW_PROFILE: _profiles,
    Mode.DELETE_PROFILE: _profiles,
    Mode.REAP_SNAPSHOTS: _reap_snapshots,
    Mode.SEND_TEST_EMAIL: _send_test_email,
    Mode.CHECK: _check,
    Mode.SCHEDULE: _schedule,
    Mode.SCHEDULES: _schedules,
    Mode.SERVE: _serve,
    Mode.SIMULATE: _simulate,
    Mode.REPORT: _report,
    Mode.METRICS: _metrics,
    Mode.AUTOMATIONS: _automations,
}


def _with_names(request: Request) -> Request:
    """The same with every VM named that a folder, tag or pattern chooses."""
    if not request.selection.filters:
        return request
    from hyperexport.flows.connections import vsphere_session
    from hyperexport.steps.selection import choose_vms

    with vsphere_session(request.vsphere, StopSignal()) as session:
        rows, missing = choose_vms(session, request.selection)
    return replace(request, selection=Selection(vm=(*missing, *(row.ref.path for row in rows))))


def _each(request: Request, act: Callable[[str], None]) -> list[Failure]:
    """Take the VMs one after another; one's failure does not stop the next, an interruption stops all."""
    failures: list[Failure] = []
    for vm in request.vms:
        try:
            act(vm)
        except Exception as error:
            failure = Failure(error, vm)
            if isinstance(failure.cause, Interrupted):
                raise
            failures.append(_fail(failure, request))
    return failures


def _fail(failure: Failure, request: Request) -> Failure:
    failure.tell(debug=request.debug)
    return failure


def _prepare_prefect(output: Output) -> None:
    """Have an API, and keep what Prefect says of itself off the network and the terminal."""
    _keep_prefect_quiet()
    with output.waiting("waiting for Prefect"):
        provide_prefect_api()


def _prepare_prefect_for_blocks(request: Request, output: Output) -> None:
    """Have an API where a saved block is needed, and only there."""
    if request.profile or resolve(request.options).options.destination.s3_credentials:
        _prepare_prefect(output)


def _keep_prefect_quiet() -> None:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Of a server that is away it prints every event that has to wait; tasks/reporting.py says it in a line.
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    if json_logs_wanted():  # Prefect's own form of it, for the processes that hyperexport serve starts
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER", "json")


def _ask_for_password(request: Request) -> None:
    """Ask whoever sits at the terminal for the password that nothing else gives. It stays in this process."""
    variables = os.environ
    url = variables.get("HYPEREXPORT_VSPHERE_URL") or variables.get("GOVC_URL")
    known = variables.get("HYPEREXPORT_VSPHERE_PASSWORD") or variables.get("GOVC_PASSWORD")
    if request.vsphere or known or not url or not sys.stdin.isatty():
        return
    parts = urlsplit(url if "://" in url else f"https://{url}")
    user = variables.get("HYPEREXPORT_VSPHERE_USERNAME") or variables.get("GOVC_USERNAME") or parts.username
    if user and not parts.password:
        variables["GOVC_PASSWORD"] = getpass.getpass(f"Password of {user} at {parts.hostname}: ")
