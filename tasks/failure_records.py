"""Why a run failed, kept with the run as data: a fleet in another process reads it there, and parses no message."""

import logging
from typing import Final
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run
from pydantic import ValidationError

from hyperexport.results import FailureReport
from hyperexport.workarounds.server_outage import request_once

logger = logging.getLogger(__name__)

_LABEL: Final = "hyperexport.failure"


def record_failure(error: BaseException) -> None:
    """Keep the failure of this run as a label of it. Where Prefect does not take it, the run's state says it, too."""
    if flow_run.id is None:
        return
    report = FailureReport.of(error).model_dump_json()
    try:
        run = UUID(str(flow_run.id))
        request_once(lambda client: client.update_flow_run_labels(run, {_LABEL: report}))
    except Exception as problem:  # noqa: BLE001 - the run ends as it would have ended
        logger.warning("the reason of the failure could not be reported to Prefect: %s", type(problem).__name__)


def recorded_failure(run: FlowRun) -> FailureReport | None:
    """What a run kept; None where it kept nothing, as one whose process died."""
    kept = run.labels.get(_LABEL)
    try:
        return FailureReport.model_validate_json(kept) if isinstance(kept, str) else None
    except ValidationError:
        return None  # another version's
