"""How long each stage of an export takes, and whose log lines they are.

A step that is marked with :func:`stage` is measured, and what is logged while it runs names the run, the VM, the disk
that it is given and the stage (:mod:`hyperexport.base.log_context`). What runs side by side, as disks do, counts once:
a stage lasts for as long as at least one of its steps is at work.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from hyperexport.base.log_context import about
from hyperexport.model.manifest import StageName
from hyperexport.model.vm import DiskInfo
from hyperexport.steps.job import Job

P = ParamSpec("P")
R = TypeVar("R")


def stage(name: StageName) -> Callable[[Callable[Concatenate[Job, P], R]], Callable[Concatenate[Job, P], R]]:
    """Mark a step as a part of a stage of its job's export."""

    def mark(step: Callable[Concatenate[Job, P], R]) -> Callable[Concatenate[Job, P], R]:
        @wraps(step)
        def measured(job: Job, *args: P.args, **kwargs: P.kwargs) -> R:
            disk = next((given.label for given in (*args, *kwargs.values()) if isinstance(given, DiskInfo)), None)
            with about(run=job.run, vm=job.vm.name, disk=disk, stage=name), job.stopwatch.running(name):
                return step(job, *args, **kwargs)

        return measured

    return mark
