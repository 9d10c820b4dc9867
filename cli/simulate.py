"""``hyperexport simulate``: a simulated vCenter, to try everything without a real one."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hyperexport.base.units import MIB
from hyperexport.cli.command import Command
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Debug
from hyperexport.cli.output import Output
from hyperexport.errors import UsageError

if TYPE_CHECKING:
    from hyperexport.simulator.command import Ready


@dataclass(frozen=True, kw_only=True)
class Simulate(Command):
    """Run a simulated vCenter; sizes in bytes, the latency in seconds."""

    port: int
    inventory_vms: int
    disks: int
    disk_size: int
    address: str
    username: str
    ready_file: Path | None
    directory: Path | None
    latency: float

    def run(self, output: Output) -> list[Failure]:
        """Serve until Ctrl-C, and print how to reach it."""
        from hyperexport.simulator import command

        def announce(ready: "Ready") -> None:
            output.say(
                f"export GOVC_URL={ready.url}",
                f"export GOVC_USERNAME={ready.username}",
                f"export GOVC_PASSWORD={shlex.quote(ready.password)}",
                f"export GOVC_TLS_CA_CERTS={shlex.quote(ready.ca_file)}",
            )

        try:
            command.run(
                port=self.port,
                vms=self.inventory_vms,
                disks=self.disks,
                disk_size=self.disk_size,
                address=self.address,
                username=self.username,
                ready_file=self.ready_file,
                directory=self.directory,
                latency=self.latency,
                on_ready=announce,
            )
        except OSError as error:
            message = f"the simulator cannot serve: {error}"
            raise UsageError(message, fix="Choose another --port or --directory") from error
        return []


def arguments(
    *,
    port: Annotated[int, Parameter(help="The port to listen on; 0 chooses a free one.")] = 8989,
    vms: Annotated[int, Parameter(help="How many VMs it holds.")] = 3,
    disks: Annotated[int, Parameter(help="How many disks each VM has.")] = 2,
    disk_size: Annotated[int, Parameter(help="The capacity of each disk, in MB.")] = 64,
    address: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    username: Annotated[str, Parameter(help="The user name that it accepts.")] = "administrator@vsphere.local",
    ready_file: Annotated[Path | None, Parameter(help="Write the connection settings here when ready.")] = None,
    directory: Annotated[Path | None, Parameter(help="Folder in which to keep its certificate between runs.")] = None,
    latency: Annotated[float, Parameter(help="Milliseconds to add to every response.")] = 0.0,
    debug: Debug = False,
) -> Simulate:
    """Run a simulated vCenter until Ctrl-C, to try everything without a real one; print how to reach it."""
    return Simulate(
        debug=debug,
        port=port,
        inventory_vms=vms,
        disks=disks,
        disk_size=disk_size * MIB,
        address=address,
        username=username,
        ready_file=ready_file,
        directory=directory,
        latency=latency / 1000,
    )


LINE = CommandLine(arguments)
