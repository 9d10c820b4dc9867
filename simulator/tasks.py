"""Tasks: work that a method starts and that continues after its answer.

A real vCenter answers a ``..._Task`` call at once; what goes wrong afterwards is in the task's ``info.error``. So it
is here: each task runs in a thread of its own, holding the world's lock except where it waits.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from hyperexport.simulator.sessions import current
from hyperexport.simulator.world import Managed, World, now

logger = logging.getLogger(__name__)

_RECENT = 20

_chains = itertools.count(1000)


class Task(Managed):
    """One task, as a client sees it."""

    kind = vim.Task

    def __init__(self, world: World, entity: Any, method: str) -> None:
        super().__init__(world, world.new_id("task"))
        self.entity = entity
        self.cancel_wanted = False
        self.info = vim.TaskInfo(
            key=self.moid,
            task=self.ref,
            name=VmomiSupport.GetWsdlMethod("urn:vim25", method),
            descriptionId=_description_id(entity, method),
            entity=entity.ref,
            entityName=entity.name,
            state=vim.TaskInfo.State.queued,
            cancelled=False,
            cancelable=False,
            reason=vim.TaskReasonUser(userName=session.user.name if (session := current.get()) else "System"),
            queueTime=now(),
            eventChainId=next(_chains),
        )
        world.add(self)
        entity.recent_tasks.append(self)
        # vSphere API: recentTask holds running tasks and those that finished a short while ago.
        for old in [task for task in entity.recent_tasks[:-_RECENT] if not task.running]:
            entity.recent_tasks.remove(old)
            world.remove(old)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.info.state in {"queued", "running"}

    def progress(self, percent: int) -> None:
        """Tell how far it is."""
        self.info.progress = percent
        self.world.touch()

    def begin(self) -> None:
        """Queued becomes running."""
        self.info.state = vim.TaskInfo.State.running
        self.info.startTime = now()
        self.progress(0)

    def succeed(self, result: Any = None) -> None:
        """End the task as succeeded."""
        self.info.state = vim.TaskInfo.State.success
        self.info.result = result
        self.info.progress = None
        self._end()

    def fail(self, fault: Any) -> None:
        """End it with a fault."""
        self.info.state = vim.TaskInfo.State.error
        self.info.error = fault
        self._end()

    def _end(self) -> None:
        self.info.completeTime = now()
        self.world.touch()

    def CancelTask(self) -> None:
        if not self.info.cancelable:
            raise vmodl.fault.NotSupported(msg="The task cannot be canceled.")
        self.cancel_wanted = True
        self.info.cancelled = True
        self.world.touch()


class TaskRunner:
    """Runs the work of tasks in threads, and waits for all of them at the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._threads: set[threading.Thread] = set()

    def start(self, entity: Any, method: str, work: Callable[[Task], Any]) -> Any:
        """Start a task and answer its reference; ``work`` runs under the world's lock and may raise a fault."""
        task = Task(self._world, entity, method)
        thread = threading.Thread(target=self._run, args=(task, work), name=f"{task.moid} {method}", daemon=True)
        self._threads.add(thread)
        thread.start()
        return task.ref

    def background(self, work: Callable[[], Any]) -> None:
        """Do something under the world's lock that no client sees as a task."""

        def run() -> None:
            try:
                with self._world.lock:
                    work()
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="background", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, task: Task, work: Callable[[Task], Any]) -> None:
        try:
            with self._world.lock:
                task.begin()
                try:
                    task.succeed(work(task))
                except vmodl.MethodFault as fault:
                    fault.msg = fault.msg or type(fault).__name__.rpartition(".")[2]
                    logger.info("%s on %s failed: %s", task.info.descriptionId, task.entity.name, fault.msg)
                    task.fail(fault)
        finally:
            self._threads.discard(threading.current_thread())

    def join(self) -> None:
        """Wait until no task runs any more."""
        for thread in list(self._threads):
            thread.join()


def _description_id(entity: Any, method: str) -> str:
    # vSphere API: descriptionId is the method's type and name, as in VirtualMachine.createSnapshot.
    name = method.removesuffix("_Task").removesuffix("VM") if method.endswith("_Task") else method
    return f"{entity.kind._wsdlName}.{name[0].lower()}{name[1:]}"
