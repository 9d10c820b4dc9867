"""``hyperexport restore``: an export back into vSphere, as a VM or as disks of another."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from hyperexport.base.units import format_bytes, format_elapsed
from hyperexport.cli.command import Command
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Disks, Given, VSphere, restore_options
from hyperexport.cli.output import Output, key_value, numbered, say
from hyperexport.model.restore import RestoreRequest
from hyperexport.model.restore_point import RestorePoint

if TYPE_CHECKING:
    from hyperexport.model.restore import RestoreResult

Provisionings = Literal["thin", "thick", "eager"]
Identities = Literal["new", "keep"]


@dataclass(frozen=True, kw_only=True)
class Restore(Command):
    """Restore an export into vSphere.

    Args:
        wanted: Which export.
        request: What becomes of it.
    """

    wanted: RestorePoint
    request: RestoreRequest = field(default_factory=RestoreRequest)

    def run(self, output: Output) -> list[Failure]:
        """Restore, and show what was made, or in a dry run would be."""
        ask_for_password(self)
        output.nothing("restores")
        with output.progress():
            result = self._restore()
        output.answer(
            "restores",
            pretty=lambda console: _show(console, result),
            quiet=_lines(result),
            document=result.model_dump(mode="json"),
        )
        return []

    def _restore(self) -> "RestoreResult":
        if uses_prefect(self):
            from hyperexport.flows import restore_vm

            return restore_vm(
                self.wanted.export or "",
                self.wanted.vm or "",
                self.wanted.at,
                restore=self.request,
                options=self.options,
                vsphere=self.vsphere,
                profile=self.profile,
            )
        from hyperexport.jobs.restore import restore_vm

        return restore_vm(direct_runner(self), self.wanted, self.request, options_in_force(self))


def _flag(name: str, metavar: str, text: str) -> Parameter:
    return Parameter(name=name, group=WHAT, metavar=metavar, show_choices=False, help=text)


def arguments(
    given: Given,
    wanted: RestorePoint,
    *,
    name: Annotated[str | None, _flag("--name", "NAME", "The new VM's name. [default: the exported VM's]")] = None,
    folder: Annotated[
        str | None, _flag("--folder", "PATH", "VM folder. [default: where the VM was, if that exists]")
    ] = None,
    resource_pool: Annotated[
        str | None, _flag("--resource-pool", "PATH", "Resource pool, cluster or host. [default: where the VM was]")
    ] = None,
    host: Annotated[str | None, _flag("--host", "NAME", "ESXi host. [default: where the VM was, or by DRS]")] = None,
    datastore: Annotated[str | None, _flag("--datastore", "NAME", "Datastore. [default: where the VM was]")] = None,
    network: Annotated[
        tuple[str, ...],
        _flag("--network", "SOURCE=TARGET", "Network for another; repeatable. none disconnects every adapter."),
    ] = (),
    disk_provisioning: Annotated[
        Provisionings | None, _flag("--disk-provisioning", "thin|thick|eager", "[default: as each disk was]")
    ] = None,
    identity: Annotated[
        Identities | None,
        _flag("--identity", "new|keep", "MAC addresses and UUIDs. [default: new while the original is there]"),
    ] = None,
    disk: Disks = (),
    attach_to: Annotated[
        str | None, _flag("--attach-to", "VM", "With --disk: attach the restored disks to this VM.")
    ] = None,
    power_on: Annotated[bool, Parameter(name="--power-on", group=WHAT, help="Power the VM on at the end.")] = False,
    verify: Annotated[
        bool, Parameter(name="--verify", group=WHAT, help="Compare the server's checksum of each file. [default: on]")
    ] = True,
    vsphere_block: VSphere = None,
) -> Restore:
    """Restore an export into vSphere: a whole VM, some of its disks, or disks for a VM that is there.

    No other VM is touched, and a name that exists is an error. What fails or is interrupted leaves no VM.
    """
    request = RestoreRequest.of(
        {
            "name": name,
            "folder": folder,
            "resource_pool": resource_pool,
            "host": host,
            "datastore": datastore,
            "networks": network,
            "disk_provisioning": disk_provisioning,
            "identity": identity,
            "disks": disk,
            "attach_to": attach_to,
            "power_on": power_on,
            "verify": verify,
        }
    )
    return given.command(Restore, wanted=wanted, request=request, vsphere=vsphere_block)


LINE = CommandLine(arguments, restore_options, one_export=True)


def _show(console: Console, result: "RestoreResult") -> None:
    plan = result.plan
    done = "Would restore" if result.dry_run else "Restored"
    took = "" if result.dry_run else f" in {format_elapsed(result.seconds)}"
    say(console, f"{done} {plan.source.path}, export {plan.export_id}{took}:")
    facts = list(plan.facts())
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        say(console, f"  {name:<{width}}  {value}")
    for file in plan.files:
        kind = f", {file.provisioning}" if file.provisioning else ""
        say(console, f"  {file.name}  ({format_bytes(file.size)} to upload{kind})")
    if not result.dry_run:
        words = "the server has what was sent" if result.verified else "NOT everything was compared with the server"
        say(console, f"  Verified: {words}")
    if plan.lost:
        say(console, "  Does not come back:")
        for each in plan.lost:
            say(console, f"    {each.setting}: {each.reason}")
    for warning in (*plan.warnings, *result.warnings):
        say(console, f"  Warning: {warning}")


def _lines(result: "RestoreResult") -> list[str]:
    plan = result.plan
    return [
        key_value("export", plan.export_id),
        key_value("vm", result.vm.path if result.vm else plan.path),
        key_value("moref", result.vm.moref if result.vm else ""),
        key_value("dry_run", result.dry_run),
        key_value("datastore", plan.datastore),
        key_value("space_needed", plan.space_needed),
        key_value("identity", plan.identity),
        key_value("uploaded", result.uploaded),
        key_value("verified", bool(result.verified)),
        key_value("powered_on", result.powered_on),
        *numbered("attached", result.attached),
        *numbered("lost", [f"{each.setting}: {each.reason}" for each in plan.lost]),
        *numbered("warning", [*plan.warnings, *result.warnings]),
    ]
