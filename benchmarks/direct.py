"""One export by the engine's steps, called one after the other as the flow ``export_vm`` does, without Prefect."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hyperexport.base.stop import StopSignal
from hyperexport.model.manifest import ExportManifest
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps.disks import transfer_disk
from hyperexport.steps.job import Job
from hyperexport.steps.package import describe_vm, export_nvram, publish
from hyperexport.steps.plan import check_exportable, disks_of, make_plan
from hyperexport.steps.snapshots import remove_snapshot, take_snapshot
from hyperexport.steps.staging import staged
from hyperexport.steps.stores import check_stores, open_stores
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.inventory import describe, find_vm
from hyperexport.vsphere.session import Session, connect


def options_for(output: Path) -> ExportOptions:
    """What is asked of every way of ours: an export from a snapshot into a local store."""
    return ExportOptions.from_keys({"output": output, "snapshot": True})


def export_directly(vm: str, output: Path) -> ExportManifest:
    """Export a VM into a new store; the server is the one that the environment names."""
    stop = StopSignal()
    with connect(VSphereEndpoint.from_environment(), stop=stop) as session:
        job = _job(session, vm, options_for(output), stop)
        check_exportable(job)
        check_stores(job.stores)
        with staged(job) as copies:
            snapshot = take_snapshot(job, "benchmark").record
            try:
                plan = make_plan(job, snapshot.moref)
                disks = {disk.key: disk for disk in disks_of(job, snapshot.moref)}
                with ThreadPoolExecutor(job.options.execution.parallel) as threads:
                    moving = [
                        threads.submit(transfer_disk, job, copies, disk, disks[disk.key], snapshot.moref)
                        for disk in plan.disks
                    ]
                    moved = [file for one in moving for file in one.result()]
                nvram = export_nvram(job, copies, snapshot.moref)
                files = describe_vm(job, copies, moved, nvram, snapshot.moref)
            finally:
                remove_snapshot(job, snapshot.moref, snapshot.name)
            (export,) = publish(job, copies, files, plan=plan, snapshot=snapshot)
    return export.manifest


def _job(session: Session, vm: str, options: ExportOptions, stop: StopSignal) -> Job:
    throttle = Throttle(None)
    return Job(
        run="benchmark",
        session=session,
        vm=describe(session, find_vm(session, vm)),
        options=options,
        stores=open_stores(options.destination, throttle=throttle, stop=stop),
        throttle=throttle,
        stop=stop,
    )
