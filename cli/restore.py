"""``hyperexport restore``: an export back into vSphere, as a VM or as disks of another."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hyperexport.cli.command import Command
from hyperexport.cli.execution import ask_for_password, direct_runner, options_in_force, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import WHAT, CommandLine, Disks, Given, VSphere, restore_options
from hyperexport.cli.output import Output
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
        import hyperexport.views.restores  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the page

        ask_for_password(self)
        output.nothing("restores")
        with output.progress():
            result = self._restore()
        output.result("restores", result)
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
