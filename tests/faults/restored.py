"""What the faults of restores and of drills have in common."""

import os
import random
from collections.abc import Callable, Mapping
from typing import Final

from pyVmomi import vim

from hyperexport.simulator import Simulator
from tests.engine.simulator_client import find, finish, logged_in

POINTS: Final = int(os.environ.get("HYPEREXPORT_FAULT_POINTS", "160"))
"""How many kills there are."""


def take_away(sim: Simulator) -> None:
    """Remove what a complete restore made, as its user would: the VM ``copy``, and all but ``target``'s first disk."""
    with logged_in(sim) as service:
        if "copy" in [vm.name for vm in sim.vms()]:
            vm = find(service, "copy")
            if vm.runtime.powerState == "poweredOn":
                finish(vm.PowerOffVM_Task())
            finish(vm.Destroy_Task())
        vm = find(service, "target")
        disks = [each for each in vm.config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk)][1:]
        spec = vim.vm.device.VirtualDeviceSpec
        changes = [spec(operation="remove", fileOperation="destroy", device=disk) for disk in disks]
        if changes:
            finish(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))


def stop_in_every_step(stop: Callable[[str, int], str], events: Mapping[str, int], chance: random.Random) -> set[str]:
    """Stop a run in each of its steps.

    Args:
        stop: Stops one in a step at one of its events, and says how it ended.
        events: How many each step has.
        chance: Chooses among them.
    """
    return {stop(step, chance.randint(1, count)) for step, count in events.items() for _ in range(max(1, POINTS // 40))}
