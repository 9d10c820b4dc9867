"""A Prefect process worker that can be stopped: it cancels its runs, waits until they have cleaned up, and ends.

A plain worker that is stopped kills its flow processes without telling the server, which calls those runs crashed.
Knows nothing of flows.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import anyio
import anyio.abc
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

logger = logging.getLogger("hyperexport.serve")

SECONDS_TO_DRAIN: Final = 60.0
"""Prefect kills a cancelled run after 30 s, and may hear of the cancellation up to 10 s late."""


class LocalConfiguration(ProcessJobConfiguration):
    """Flow processes run in this process's folder and interpreter.

    In the temporary folder that Prefect gives them by default, an export with a relative ``--output`` would be lost
    with the folder; and by default it starts two more interpreters, which look for code to pull.
    """

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """Fill in what the work pool leaves open."""
        self.working_dir = self.working_dir or Path.cwd()
        self.command = self.command or command_to_string([sys.executable, "-m", "hyperexport.deployments.flow_run"])
        super().prepare_for_flow_run(*args, **kwargs)


class DrainingWorker(ProcessWorker):
    """A process worker with an orderly end."""

    @classmethod
    def __dispatch_key__(cls) -> str:
        # Prefect keeps one class for each key and warns when another takes it. The type stays the pool's, "process".
        return "hyperexport-process"

    job_configuration = LocalConfiguration

    def __init__(self, pool: str, *, limit: int, on_ready: Callable[[], None]) -> None:
        """Make a worker.

        Args:
            pool: The work pool's name.
            limit: Maximum number of concurrent runs.
            on_ready: Called when runs can be taken up.
        """
        super().__init__(work_pool_name=pool, limit=limit)
        self._on_ready = on_ready
        self._runs: set[UUID] = set()
        self._draining = False

    async def setup(self) -> None:
        """Get ready, and say so."""
        await super().setup()
        self._on_ready()

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take up what is due, unless the end has come."""
        return [] if self._draining else await super().get_and_submit_flow_runs()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run a flow in a process of its own, and remember it meanwhile."""
        self._runs.add(flow_run.id)
        try:
            return await super().run(flow_run, configuration, task_status)
        finally:
            self._runs.discard(flow_run.id)

    async def drain(self) -> None:
        """Take up nothing more, cancel what runs, and wait until that has cleaned up behind itself."""
        self._draining = True
        for run in list(self._runs):
            logger.info("stopping: cancelling run %s", run)
            cancelling = State[Any](type=StateType.CANCELLING, message="hyperexport serve was stopped")
            try:
                await self.client.set_flow_run_state(run, cancelling)
            except Exception as error:  # noqa: BLE001 - the other runs still have to be cancelled
                logger.error("run %s could not be cancelled: %s", run, type(error).__name__)
        with anyio.move_on_after(SECONDS_TO_DRAIN):
            while self._runs:
                await anyio.sleep(0.1)
        for run in self._runs:
            logger.error("run %s did not end in time and is killed", run)
