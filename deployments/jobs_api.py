"""The jobs API: HTTP in, flow runs out. It checks who asks and what is asked, and keeps no state of its own."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from json import JSONDecodeError
from typing import Annotated, Final
from uuid import UUID

import httpx
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request, Response, status
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from pydantic import SkipValidation, ValidationError
from starlette.concurrency import run_in_threadpool

import hyperexport
from hyperexport.deployments import jobs
from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.http_guard import BoundedBody, SameOrigin, Token
from hyperexport.deployments.job_model import Accepted, Cancelled, Job, JobDetails, JobIds, JobList, Jobs, read_jobs
from hyperexport.deployments.local_users import LocalUsers
from hyperexport.deployments.stored_export_jobs import DrillJob, RestoreJob, StoredExportJob, read_stored_job
from hyperexport.errors import HyperExportError
from hyperexport.flows import restore_drill, restore_vm
from hyperexport.prefect_errors import of_prefect

logger = logging.getLogger("hyperexport.serve")

_PAGE: Final = 200
_OF_PREFECT: Final = (
    *(httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, PrefectException, HyperExportError),
    *(ValidationError, JSONDecodeError),  # an answer that is not Prefect's
)
"""What a request to Prefect raises."""

Submission = Annotated[Job | list[Job] | Jobs, SkipValidation, Body()]
"""Documented as it is, and read job by job: a bad one must not refuse the others."""


def create_api(
    token: str | None,
    *,
    local_only: bool,
    allowed: AllowedRoots | None = None,
    users: frozenset[int] | None = None,
) -> FastAPI:
    """Make the API.

    Args:
        token: The bearer token that every request for jobs must have; None asks for none.
        local_only: Whether it is bound to loopback; see :class:`hyperexport.deployments.http_guard.SameOrigin`.
        allowed: Where jobs may write; the service's own stores if None.
        users: The users of this machine who are answered; None for all.
    """
    app = FastAPI(title="HyperExport jobs", version=hyperexport.__version__, lifespan=_lifespan)
    app.state.allowed = allowed or AllowedRoots.of_service()
    # The last one added is asked first.
    app.add_middleware(BoundedBody)
    if token:
        app.add_middleware(Token, token=token, open_paths=frozenset({"/health"}))
    app.add_middleware(SameOrigin, loopback_only=local_only)
    app.add_middleware(LocalUsers, users=users)
    for kind in _OF_PREFECT:
        app.add_exception_handler(kind, _prefect_is_away)
    described = [Depends(HTTPBearer(auto_error=False))] if token else []  # for the page at /docs; Token has checked it
    app.include_router(_router, dependencies=described)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with get_client() as client:
        app.state.prefect = client
        yield


def _prefect(request: Request) -> PrefectClient:
    return request.app.state.prefect


Prefect = Annotated[PrefectClient, Depends(_prefect)]


def _prefect_is_away(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503. The error itself goes to the log only: its text contains addresses."""
    logger.warning("the jobs API could not ask Prefect: %s", of_prefect(error) or error)
    words = f"the Prefect API does not answer: {type(error).__name__}"
    return JSONResponse({"detail": words}, status.HTTP_503_SERVICE_UNAVAILABLE)


_router: Final = APIRouter()


@_router.get("/health")
async def health(prefect: Prefect, response: Response) -> dict[str, str]:
    """Tell whether jobs can be taken: this process lives, and Prefect answers."""
    trouble = await prefect.api_healthcheck()
    if trouble:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "Prefect does not answer", "reason": type(trouble).__name__}
    return {"status": "ok"}


@_router.get("/status")
async def server_status(prefect: Prefect) -> dict[str, str | int]:
    """Tell the version, and how many jobs wait, run and failed."""
    waiting = [StateType.SCHEDULED, StateType.PENDING]
    return {
        "version": hyperexport.__version__,
        "waiting": sum([await jobs.count(prefect, state) for state in waiting]),
        "running": await jobs.count(prefect, StateType.RUNNING),
        "failed": await jobs.count(prefect, StateType.FAILED),
    }


@_router.post("/jobs/submit", status_code=status.HTTP_202_ACCEPTED, include_in_schema=False)
@_router.post("/api/v1/jobs", status_code=status.HTTP_202_ACCEPTED, responses={422: {"model": Accepted}})
async def submit(document: Submission, prefect: Prefect, request: Request, response: Response) -> Accepted:
    """Submit one job, an array of jobs, or {"jobs": [...]}; 422 if not one is accepted."""
    # Blocks are loaded outside of the event loop.
    good, errors = await run_in_threadpool(read_jobs, document, request.app.state.allowed)
    ids = [await jobs.submit(prefect, job) for job in good]
    if not ids:
        response.status_code = status.HTTP_422_UNPROCESSABLE_CONTENT
    return Accepted(job_ids=ids, accepted=len(ids), rejected=len(errors), errors=errors, timestamp=datetime.now(UTC))


@_router.post("/api/v1/restores", status_code=status.HTTP_202_ACCEPTED, responses={422: {"model": Accepted}})
async def submit_restore(job: RestoreJob, prefect: Prefect, request: Request, response: Response) -> Accepted:
    """Submit a restore into vSphere; it is a job like any other from then on. 422 if it is not accepted."""
    return await _submit_stored(job, restore_vm.name, prefect, request, response)


@_router.post("/api/v1/drills", status_code=status.HTTP_202_ACCEPTED, responses={422: {"model": Accepted}})
async def submit_drill(job: DrillJob, prefect: Prefect, request: Request, response: Response) -> Accepted:
    """Submit restore drills; they are a job like any other from then on. 422 if it is not accepted."""
    return await _submit_stored(job, restore_drill.name, prefect, request, response)


async def _submit_stored(
    job: StoredExportJob, flow: str, prefect: PrefectClient, request: Request, response: Response
) -> Accepted:
    parameters, errors = await run_in_threadpool(read_stored_job, job, request.app.state.allowed)
    ids = [await jobs.submit(prefect, parameters, flow=flow)] if parameters else []
    if not ids:
        response.status_code = status.HTTP_422_UNPROCESSABLE_CONTENT
    return Accepted(job_ids=ids, accepted=len(ids), rejected=len(errors), errors=errors, timestamp=datetime.now(UTC))


@_router.get("/api/v1/jobs")
async def list_jobs(
    prefect: Prefect,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
    state: StateType | None = None,
) -> JobList:
    """List jobs, the newest first."""
    return JobList(jobs=await jobs.newest(prefect, limit=limit, offset=offset, state=state))


@_router.get("/jobs/{job}", include_in_schema=False)
@_router.get("/api/v1/jobs/{job}")
async def job_details(job: UUID, prefect: Prefect) -> JobDetails:
    """Tell how a job stands, how far it is, and what it came to."""
    try:
        return await jobs.details(prefect, job)
    except jobs.JobNotFound as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error


@_router.post("/api/v1/jobs/{job}/cancel", status_code=status.HTTP_202_ACCEPTED)
async def cancel_job(job: UUID, prefect: Prefect) -> JobDetails:
    """Stop a job. It removes its snapshot and what it has written, and is Cancelled when that is done."""
    try:
        await jobs.cancel(prefect, job)
        return await jobs.details(prefect, job)
    except jobs.JobNotFound as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error
    except jobs.JobFinished as error:
        raise HTTPException(status.HTTP_409_CONFLICT, str(error)) from error


@_router.post("/jobs/cancel", include_in_schema=False)
async def cancel_jobs(which: JobIds, prefect: Prefect) -> Cancelled:
    """Stop several jobs."""
    cancelling: list[UUID] = []
    errors: list[str] = []
    for job in which.job_ids:
        try:
            await jobs.cancel(prefect, job)
            cancelling.append(job)
        except (jobs.JobNotFound, jobs.JobFinished) as error:
            errors.append(str(error))
    return Cancelled(cancelling=cancelling, errors=errors)
