"""The main job: one VM, from its snapshot to a proven export. The order of its steps is ``hyperexport/runbook.py``."""

import time
from dataclasses import replace
from functools import partial
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run

from hyperexport.base.stop import StopSignal
from hyperexport.flows.connections import (
    OPTIONS,
    Profile,
    VSphere,
    options_in_force,
    s3_settings,
    stop_signal,
    vsphere_session,
)
from hyperexport.flows.notifying import notifying
from hyperexport.flows.outcome import told_in_words
from hyperexport.flows.steps import as_tasks, show_result
from hyperexport.model.rates import recording_rates
from hyperexport.options.form import Shown
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import ExportResult
from hyperexport.runbook import run_export
from hyperexport.steps.job import Job
from hyperexport.steps.stores import open_stores
from hyperexport.tasks.artifacts import progress_artifacts
from hyperexport.tasks.bandwidth import bandwidth_for
from hyperexport.tasks.inspect import inspect_vm
from hyperexport.tasks.liveness import run_may_be_at_work
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.session import Session


@flow(name="export-vm", flow_run_name="export {vm}", persist_result=False)
@told_in_words
def export_vm(
    vm: str,
    options: Annotated[
        ExportOptions, Shown("destination", "snapshot", "incremental", "bandwidth", "execution", "cleanup", "email")
    ] = OPTIONS,
    vsphere: VSphere = None,
    profile: Profile = None,
) -> ExportResult:
    """Export one virtual machine, consistently and at a controlled rate, with proof that the bytes are right.

    Args:
        vm: The VM's name or its whole inventory path, exactly.
        options: What to do, and how. What is not set comes from the environment, the profile, the defaults.
        vsphere: The vSphere credentials block to use, or its name. The worker's environment (GOVC_URL, ...) if empty.
        profile: A saved export profile, or its name.

    Raises:
        HyperExportError: The export failed; what was begun has been cleaned up.
    """
    began = time.monotonic()
    options = options_in_force(options, profile)
    with (
        notifying(vm, options) as notices,
        stop_signal() as stop,
        bandwidth_for(options.bandwidth) as throttle,
        vsphere_session(vsphere, stop) as session,
    ):
        job = prepare_job(session, vm, options, stop, throttle)
        with progress_artifacts(job.ref), recording_rates(job.ref) as recorder:
            steps = replace(as_tasks(), begun=notices.started, ended=partial(show_result, recorder=recorder))
            result = run_export(job, steps, began=began)
    return notices.completed(result)


def prepare_job(session: Session, vm: str, options: ExportOptions, stop: StopSignal, throttle: Throttle) -> Job:
    """Find the VM and gather what the steps share."""
    found = inspect_vm(session, vm)
    stores = open_stores(options.destination, throttle=throttle, stop=stop, s3=s3_settings(options.destination))
    return Job(
        run=str(flow_run.id),
        session=session,
        vm=found,
        options=options,
        stores=stores,
        throttle=throttle,
        stop=stop,
        at_work=run_may_be_at_work,
    )
