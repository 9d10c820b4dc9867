"""``hyperexport --vm-info``: what vSphere knows of the VMs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hyperexport.cli.command import VmCommand
from hyperexport.cli.execution import ask_for_password, direct_runner, uses_prefect
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output, pair_lines, show, show_rows
from hyperexport.model.vm import VmBrief, VmInfo

if TYPE_CHECKING:
    from rich.console import Console

_MOST_BY_THEMSELVES: Final = 10


class ShowVms(VmCommand):
    """Show the VMs."""

    def run(self, output: Output) -> list[Failure]:
        """Read and show the VMs; with ``--quiet`` read only what that prints: of thousands the rest takes seconds."""
        ask_for_password(self)
        if output.is_quiet:
            import hyperexport.views.vms  # noqa: F401  # pyright: ignore[reportUnusedImport] - its pairs alone

            for vm in self._read_brief():
                output.answer("vms", pretty=lambda _console: None, quiet=pair_lines(vm), document={})
            return []
        vms = self._read()
        for position, vm in enumerate(vms):
            output.answer(
                "vms",
                pretty=lambda console, vm=vm, position=position: show_one_of_vms(console, vm, position, vms),
                quiet=(),
                document={**vm.model_dump(mode="json"), "storage_bytes": vm.storage_bytes},
            )
        return []

    def _read(self) -> Sequence[VmInfo]:
        if uses_prefect(self):
            from hyperexport.flows import vm_info

            return vm_info(self.selection, vsphere=self.vsphere)
        from hyperexport.jobs.vm_info import vm_info

        return vm_info(direct_runner(self), self.selection)

    def _read_brief(self) -> Sequence[VmInfo | VmBrief]:
        if uses_prefect(self):
            return self._read()
        from hyperexport.jobs.vm_info import vm_brief

        return vm_brief(direct_runner(self), self.selection)


def show_one_of_vms(console: "Console", vm: VmInfo, position: int, vms: Sequence[VmInfo]) -> None:
    """Show one of a few VMs whole; of many, the first stands for all: one table, with a row for each."""
    if len(vms) <= _MOST_BY_THEMSELVES:
        show(console, vm)
    elif position == 0:
        show_rows(console, f"{len(vms)} VMs", vms)
