"""Each job as the command line runs it: as a flow run where a Prefect API is in use, else directly in this process.

Where that is, ``deployments/orchestrator.py`` decides; both ways call the same job (``hyperexport/jobs/``). Whatever a
way needs is imported when it is taken.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from hyperexport.base.json_logs import json_logs_wanted
from hyperexport.cli.profiles import options_of_profile
from hyperexport.cli.request import Reading, Request
from hyperexport.deployments.orchestrator import Place, find_place, use
from hyperexport.model.restore_point import RestorePoint
from hyperexport.options.environment import warn_of_unknown_variables
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import selection_from_environment

if TYPE_CHECKING:
    from hyperexport.convert import Conversion
    from hyperexport.files import Extracted, GuestEntry, VolumeInfo
    from hyperexport.jobs.direct import DirectRunner
    from hyperexport.jobs.read import ServedExport
    from hyperexport.jobs.runner import StepRunner
    from hyperexport.model.vm import VmInfo
    from hyperexport.policy.incremental import ExportPlan
    from hyperexport.results import (
        CleanupResult,
        ExportResult,
        FleetMember,
        FleetResult,
        ReapResult,
        SetupReport,
        StoreContents,
        VerifiedExport,
    )
    from hyperexport.steps.selection import Chosen
    from hyperexport.store.base import Store, StoredExport
    from hyperexport.views.survey import StoreSurvey
    from hyperexport.vsphere.inventory import VmBrief


def place_of(request: Request) -> Place:
    """Where the command runs, and why."""
    return find_place(no_prefect=request.no_prefect)


def uses_prefect(request: Request) -> bool:
    """Whether the command runs as a flow run; then Prefect is made ready to be imported."""
    place = place_of(request)
    if place.url is None:
        return False
    use(place)
    keep_prefect_quiet()
    return True


def require_prefect(request: Request, what: str) -> None:
    """See that there is a Prefect server, for what only one can do.

    Raises:
        UsageError: There is none; the message names the command that brings one.
    """
    if not uses_prefect(request):
        from hyperexport.jobs.direct import refuse

        refuse(what)


def keep_prefect_quiet() -> None:
    """Keep what Prefect says of itself off the network and the terminal."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Of a server that is away it prints every event that has to wait; tasks/reporting.py says it in a line.
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    if json_logs_wanted():  # Prefect's own form of it, for the processes that hyperexport serve starts
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER", "json")


def options_in_force(request: Request, options: ExportOptions | None = None) -> ExportOptions:
    """Merge what was given with the environment, the profile and the defaults."""
    warn_of_unknown_variables()
    profile = options_of_profile(request) if request.profile else None
    return resolve(options or request.options, profile=profile).options


def _runner(request: Request) -> "DirectRunner":
    from hyperexport.jobs.direct import DirectRunner, refuse

    if request.vsphere:
        refuse("--vsphere-block")
    return DirectRunner()


def vm_info(request: Request) -> "Sequence[VmInfo]":
    """Read what vSphere knows of the VMs."""
    if uses_prefect(request):
        from hyperexport.flows import vm_info

        return vm_info(request.selection, vsphere=request.vsphere)
    from hyperexport.jobs.vm_info import vm_info

    return vm_info(_runner(request), request.selection)


def vm_brief(request: Request) -> "Sequence[VmInfo | VmBrief]":
    """Read of the VMs what ``--quiet`` prints: of thousands the rest would take seconds."""
    if uses_prefect(request):
        return vm_info(request)
    from hyperexport.jobs.vm_info import vm_brief

    return vm_brief(_runner(request), request.selection)


def choose(request: Request) -> "Chosen":
    """Find the VMs that are chosen; no run of its own."""
    from hyperexport.jobs.direct import DirectRunner
    from hyperexport.jobs.vm_info import choose

    if request.vsphere and uses_prefect(request):
        from hyperexport.tasks.runner import block_of

        return choose(DirectRunner(vsphere=block_of(request.vsphere).get_endpoint()), request.selection)
    return choose(_runner(request), request.selection)


def export_vm(request: Request, vm: str) -> "ExportResult":
    """Export one VM."""
    if uses_prefect(request):
        from hyperexport.flows import export_vm
        from hyperexport.flows.outcome import despite_prefect

        return despite_prefect(export_vm)(vm, request.options, vsphere=request.vsphere, profile=request.profile)
    from hyperexport.jobs.export import export_vm

    return export_vm(_runner(request), vm, options_in_force(request))


def export_fleet(request: Request) -> "FleetResult":
    """Export several VMs."""
    if uses_prefect(request):
        from hyperexport.flows import export_fleet
        from hyperexport.flows.outcome import despite_prefect

        return despite_prefect(export_fleet)(
            request.selection, request.options, vsphere=request.vsphere, profile=request.profile
        )
    from hyperexport.jobs.fleet import directly, export_fleet

    run = _runner(request)

    def redo(failed: "Sequence[FleetMember]") -> str:
        from hyperexport.views.fleet import redo_command

        return redo_command(failed, request.options, profile=request.profile)

    options = options_in_force(request)
    return export_fleet(run, request.selection, options, export_one=directly(run), redo=redo)


def incremental_info(request: Request, vm: str) -> "ExportPlan":
    """Plan an incremental export of one VM."""
    if uses_prefect(request):
        from hyperexport.flows import incremental_info

        return incremental_info(vm, request.options, vsphere=request.vsphere, profile=request.profile)
    from hyperexport.jobs.incremental_info import incremental_info, only_looking

    return incremental_info(_runner(request), vm, options_in_force(request, only_looking(request.options)))


def cleanup_exports(request: Request) -> "Sequence[CleanupResult]":
    """Delete old exports."""
    if uses_prefect(request):
        from hyperexport.flows import cleanup_exports

        return cleanup_exports(request.options, profile=request.profile)
    from hyperexport.jobs.cleanup import cleanup_exports

    return cleanup_exports(_runner(request), options_in_force(request))


def verify_exports(request: Request) -> "Sequence[VerifiedExport]":
    """Prove stored exports."""
    if uses_prefect(request):
        from hyperexport.flows import verify_exports

        return verify_exports(list(request.exports), request.options, profile=request.profile)
    from hyperexport.jobs.verify import verify_exports

    return verify_exports(_runner(request), request.exports, options_in_force(request))


def convert_export(request: Request, reading: Reading) -> "Conversion":
    """Convert an export."""
    from hyperexport.convert.values import Target

    assert reading.to is not None
    assert reading.into is not None
    to, into = Target(reading.to), reading.into.absolute()
    if uses_prefect(request):
        from hyperexport.flows import convert_export

        return convert_export(
            reading.wanted.export or "",
            reading.wanted.vm or "",
            reading.wanted.at,
            to=to,
            into=into,
            disks=list(reading.disks),
            libvirt=reading.libvirt,
            options=request.options,
            profile=request.profile,
        )
    from hyperexport.jobs.convert import convert_export

    options = options_in_force(request)
    return convert_export(
        _runner(request), reading.wanted, options, to=to, into=into, disks=reading.disks, libvirt=reading.libvirt
    )


def reap_snapshots(request: Request) -> "ReapResult":
    """Remove what dead runs left."""
    if uses_prefect(request):
        from hyperexport.flows import reap_snapshots

        return reap_snapshots(request.vsphere, options=request.options, profile=request.profile, runs=request.runs)
    from hyperexport.jobs.reap import reap_snapshots

    return reap_snapshots(_runner(request), options_in_force(request), request.runs)


def check_setup(request: Request) -> "SetupReport":
    """Try what an export needs."""
    if uses_prefect(request):
        from hyperexport.flows import check_setup

        return check_setup(request.selection, request.options, vsphere=request.vsphere, profile=request.profile)
    from hyperexport.jobs.check import check_setup

    selection = request.selection or selection_from_environment()
    return check_setup(_runner(request), selection, options_in_force(request))


def send_test_email(request: Request) -> list[str]:
    """Send a test to everyone whom an export would tell."""
    if uses_prefect(request):
        from hyperexport.flows import send_test_email

        return send_test_email(request.options, profile=request.profile)
    from hyperexport.jobs.mail import send_test_email

    return send_test_email(_runner(request), options_in_force(request))


def list_exports(request: Request) -> "Iterator[StoreContents]":
    """Read what the stores hold."""
    from hyperexport.jobs.list import list_exports

    return list_exports(*_looking(request))


def survey_stores(request: Request) -> "Sequence[StoreSurvey]":
    """Say how well the VMs of the stores are protected."""
    from hyperexport.jobs.report import survey_stores

    return survey_stores(*_looking(request))


def open_stores(request: Request) -> "tuple[Store, ...]":
    """Open the stores, to look at."""
    from hyperexport.jobs.list import stores_of

    return stores_of(*_looking(request))


def preserve(request: Request) -> "list[tuple[Store, StoredExport]]":
    """Mark exports as preserved, or take the mark away."""
    from hyperexport.jobs.preserve import preserve

    run, options = _looking(request)
    return preserve(run, request.exports, options, on=request.preserving)


def serve_disks(request: Request, reading: Reading) -> "AbstractContextManager[ServedExport]":
    """Serve disks of an export over NBD while the block runs."""
    from hyperexport.jobs.read import served

    return served(*_reading(request, reading), disks=reading.disks, socket=reading.socket, port=reading.port)


def list_volumes(request: Request, reading: Reading) -> "Sequence[VolumeInfo]":
    """List the guest's volumes."""
    from hyperexport.jobs.read import list_volumes

    return list_volumes(*_reading(request, reading))


def list_files(request: Request, reading: Reading) -> "Sequence[GuestEntry]":
    """List a folder of the guest."""
    from hyperexport.jobs.read import list_files

    return list_files(*_reading(request, reading), reading.path or "/")


def extract_files(request: Request, reading: Reading) -> "Sequence[Extracted]":
    """Extract files of the guest."""
    from hyperexport.jobs.read import extract_files

    assert reading.into is not None
    return extract_files(*_reading(request, reading), reading.get, reading.into)


def _reading(request: Request, reading: Reading) -> "tuple[StepRunner, RestorePoint, ExportOptions]":
    run, options = _looking(request)
    return run, reading.wanted, options


def _looking(request: Request) -> "tuple[StepRunner, ExportOptions]":
    """What looks at stores: always in this process, with Prefect only where a saved block says how to log in."""
    from hyperexport.jobs.direct import DirectRunner

    options = options_in_force(request)
    place = options.destination
    if place.s3_credentials is None or not uses_prefect(request):
        return DirectRunner(), options
    from hyperexport.blocks.s3_credentials import load_s3_settings

    settings = load_s3_settings(place.s3_credentials, endpoint=place.s3_endpoint)
    plain = place.model_copy(update={"s3_credentials": None})
    return DirectRunner(s3=settings), options.model_copy(update={"destination": plain})
