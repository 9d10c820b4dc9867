"""What each mode of the command line does: run a job, show the answer, go on to the next VM.

Where a job runs is no matter here (``cli/jobs.py``). What a command does not use is not imported: ``--help`` and a
question to the server must not wait for it.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace

from hyperexport.base.secrets import keep_email_password
from hyperexport.cli import checking, configuration, convert, files, fleet, jobs, nbd, profiles, quiet, stored, tables
from hyperexport.cli.failures import Failure, exit_code
from hyperexport.cli.output import Output
from hyperexport.cli.request import Mode, Request
from hyperexport.errors import Interrupted, StoreUnusable, UsageError
from hyperexport.options.selection import Selection


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
    _ask_for_password(request)
    if output.is_quiet:
        for vm in jobs.vm_brief(request):
            output.answer("vms", pretty=lambda _console: None, quiet=quiet.vm_lines(vm), document={})
        return []
    vms = jobs.vm_info(request)
    for position, vm in enumerate(vms):
        output.answer(
            "vms",
            pretty=lambda console, vm=vm, position=position: tables.show_one_of_vms(console, vm, position, vms),
            quiet=(),
            document={**vm.model_dump(mode="json"), "storage_bytes": vm.storage_bytes},
        )
    return []


def _export(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    if request.selection.one is None or request.options.fleet.spread:
        return fleet.export(request, output)

    def export(vm: str) -> None:
        with output.progress():
            result = jobs.export_vm(request, vm)
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

    def analyse(vm: str) -> None:
        plan = jobs.incremental_info(request, vm)
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
    failures: list[Failure] = []
    for result in jobs.cleanup_exports(request):
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


def _reap_snapshots(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    with output.progress():
        result = jobs.reap_snapshots(request)
    output.answer(
        "reaped",
        pretty=lambda console: tables.show_reaped(console, result),
        quiet=quiet.reaped_lines(result),
        document=result.model_dump(mode="json"),
    )
    return []


def _send_test_email(request: Request, output: Output) -> list[Failure]:
    sent = jobs.send_test_email(request)
    output.answer(
        "sent",
        pretty=lambda console: console.print(*(f"sent: {way}" for way in sent), sep="\n", markup=False, soft_wrap=True),
        quiet=[f"sent={way}" for way in sent],
        document=sent,
    )
    return []


def _check(request: Request, output: Output) -> list[Failure]:
    _ask_for_password(request)
    return checking.check(request, output)


def _verify(request: Request, output: Output) -> list[Failure]:
    stored.verify(request, output)
    return []


def _list(request: Request, output: Output) -> list[Failure]:
    stored.list_exports(request, output)
    return []


def _preserve(request: Request, output: Output) -> list[Failure]:
    stored.preserve(request, output)
    return []


def _convert(request: Request, output: Output) -> list[Failure]:
    convert.perform(request, output)
    return []


def _nbd(request: Request, output: Output) -> list[Failure]:
    nbd.perform(request, output)
    return []


def _files(request: Request, output: Output) -> list[Failure]:
    files.perform(request, output)
    return []


def _report(request: Request, output: Output) -> list[Failure]:
    from hyperexport.cli import observing

    observing.report(request, output)
    return []


def _metrics(request: Request, output: Output) -> list[Failure]:
    from hyperexport.cli import observing

    observing.metrics(request, output)
    return []


def _automations(request: Request, output: Output) -> list[Failure]:
    from hyperexport.cli import observing

    jobs.require_prefect(request, "hyperexport automations")
    observing.automations(request, output)
    return []


def _config(request: Request, output: Output) -> list[Failure]:
    configuration.show(request, output)
    return []


def _profiles(request: Request, output: Output) -> list[Failure]:
    profiles.mind(request, output)
    return []


def _save_profile(request: Request, output: Output) -> list[Failure]:
    profiles.save(request, output)
    return []


def _schedule(request: Request, output: Output) -> list[Failure]:
    from hyperexport.cli import service

    service.check_scheduling(request)
    scheduling = request.scheduling
    daemon = scheduling is not None and scheduling.daemon
    jobs.require_prefect(request, "--daemon-schedule" if daemon else "--cleanup-schedule")
    service.make_schedules(request, output)
    return []


def _schedules(request: Request, output: Output) -> list[Failure]:
    from hyperexport.cli import service

    jobs.require_prefect(request, "hyperexport schedules")
    service.mind_schedules(request, output)
    return []


def _serve(request: Request, output: Output) -> list[Failure]:
    from hyperexport.cli import service

    jobs.keep_prefect_quiet()
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
    Mode.CONVERT: _convert,
    Mode.NBD: _nbd,
    Mode.FILES: _files,
}


def _with_names(request: Request) -> Request:
    """The same with every VM named that a folder, tag or pattern chooses."""
    if not request.selection.filters:
        return request
    rows, missing = jobs.choose(request)
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


def _ask_for_password(request: Request) -> None:
    """Ask whoever sits at the terminal for the password that nothing else gives. It stays in this process."""
    variables = os.environ
    url = variables.get("HYPEREXPORT_VSPHERE_URL") or variables.get("GOVC_URL")
    known = variables.get("HYPEREXPORT_VSPHERE_PASSWORD") or variables.get("GOVC_PASSWORD")
    if request.vsphere or known or not url or not sys.stdin.isatty():
        return
    from hyperexport.vsphere.endpoint import read_address

    try:
        parts = read_address(url)
    except ValueError:
        return  # the next reader reports what is wrong with it
    import getpass

    user = variables.get("HYPEREXPORT_VSPHERE_USERNAME") or variables.get("GOVC_USERNAME") or parts.username
    if user and not parts.password:
        variables["GOVC_PASSWORD"] = getpass.getpass(f"Password of {user} at {parts.host}: ")
