"""Whether the chosen VMs could be exported with these options: asked of vCenter, without changing anything.

What is found of many VMs alike is one finding that names them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from hyperexport.base.stop import StopSignal
from hyperexport.errors import VmUnavailable
from hyperexport.model.vm import PowerState, VmInfo
from hyperexport.options.precedence import ExportOptions
from hyperexport.policy.snapshots import chain_refusal, space_warnings
from hyperexport.policy.source import as_read
from hyperexport.results import Level, SetupFinding
from hyperexport.steps.job import source_of
from hyperexport.steps.plan import check_available, encryption_words, missing_requirements
from hyperexport.vsphere.inventory import datastore_free
from hyperexport.vsphere.session import Session

_NAMED: Final = 5


class _Problem(NamedTuple):
    """What may be wrong with several VMs alike. ``words`` go on after their names."""

    what: str
    level: Level
    words: str
    fix: str | None = None


def check_vms(
    session: Session, vms: Sequence[VmInfo], options: ExportOptions, *, stop: StopSignal
) -> list[SetupFinding]:
    """Look at each VM as its export would, and go on where that would give up."""
    found: defaultdict[_Problem, list[str]] = defaultdict(list)
    for vm in vms:
        stop.check()
        for problem in (*_of_roles(session, vm, options), *_of_the_vm(vm, options), *_of_space(session, vm, options)):
            found[problem].append(vm.ref.path)
    findings = [
        SetupFinding(
            what=problem.what, level=problem.level, words=f"{_listed(paths)}: {problem.words}", fix=problem.fix
        )
        for problem, paths in found.items()
    ]
    kinds = {problem.what for problem in found}
    fine = {
        "privileges": f"{session.user} holds what these options ask for",
        "VMs": "all can be exported with these options",
        **({"datastores": "there is room for snapshots to grow"} if options.snapshot.take else {}),
    }
    findings += [
        SetupFinding(what=what, level=Level.OK, words=f"{_count(vms)}: {words}")
        for what, words in fine.items()
        if what not in kinds
    ]
    return findings


def _of_roles(session: Session, vm: VmInfo, options: ExportOptions) -> Iterator[_Problem]:
    for need, where in missing_requirements(session, vm, options):
        place = "" if where == vm.ref.path else f" on {where}"
        yield _Problem(
            "privileges",
            Level.FAIL if need.vital else Level.WARN,
            f"{session.user} lacks {need.privilege}{place}: {need.without}",
            f"Add it to the user's role there ({need.title})",
        )


def _of_the_vm(vm: VmInfo, options: ExportOptions) -> Iterator[_Problem]:
    snapshot = options.snapshot
    source = source_of(vm, options)
    running = vm.power_state is not PowerState.OFF
    try:
        check_available(vm)
    except VmUnavailable as error:
        yield _Problem("VMs", Level.FAIL, error.what, error.fix)
        return
    if words := encryption_words(vm):
        yield _Problem("VMs", Level.FAIL, *words)
        return
    if source.needs_snapshot:
        yield _Problem("VMs", Level.FAIL, "running, and no snapshot was asked for", "Add --snapshot")
    disks = as_read(vm.disks, from_snapshot=source.from_snapshot)
    refused = sorted({f"{disk.label} ({disk.unexportable})" for disk in disks if disk.unexportable})
    if all(disk.unexportable for disk in disks):
        yield _Problem("VMs", Level.FAIL, f"no disk can be exported: {', '.join(refused) or 'there are none'}")
    elif refused:
        yield _Problem("VMs", Level.WARN, f"not all disks would be exported: {', '.join(refused)} are left out")
    refusal = chain_refusal(vm.snapshot_depth) if source.from_snapshot else None
    if refusal:
        yield _Problem("VMs", Level.FAIL, refusal, "Remove or consolidate old snapshots first")
    if source.not_quiesced:
        yield _Problem(
            "VMs",
            Level.FAIL if snapshot.quiesce_required else Level.WARN,
            ("it is suspended" if vm.power_state is PowerState.SUSPENDED else "VMware Tools do not run")
            + ", so the guest cannot be quiesced"
            + ("" if snapshot.quiesce_required else ": the export would be crash-consistent"),
            source.how_to_quiesce,
        )
    if options.incremental.enabled and not (vm.change_tracking or options.incremental.enable_tracking) and running:
        yield _Problem(
            "VMs",
            Level.WARN,
            "change tracking is off, so every disk is transferred each time",
            "Add --enable-change-tracking once",
        )
    if vm.consolidation_needed and not snapshot.consolidate:
        yield _Problem(
            "VMs", Level.WARN, "vSphere says that the disks need consolidation", "Add --consolidate-snapshots once"
        )


def _of_space(session: Session, vm: VmInfo, options: ExportOptions) -> Iterator[_Problem]:
    source = source_of(vm, options)
    if source.from_snapshot:
        for words in space_warnings(as_read(vm.disks, from_snapshot=True), datastore_free(session, vm.ref)):
            yield _Problem("datastores", Level.WARN, words, "Free some space, or move the VM")


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _count(vms: Sequence[VmInfo]) -> str:
    return _listed([vm.ref.path for vm in vms])
