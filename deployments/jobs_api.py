"""The jobs API: HTTP in, flow runs out. It checks who asks and what is asked, and keeps no state of its own."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import httpx
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request, Response, status
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from pydantic import SkipValidation
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

import hyperexport
from hyperexport.deployments import jobs
from hyperexport.deployments.job_model import Accepted, Cancelled, Job, JobDetails, JobIds, JobList, Jobs, read_jobs

_THIS_MACHINE: Final = ["127.0.0.1", "localhost", "[::1]"]
_PAGE: Final = 200

Submission = Annotated[Job | list[Job] | Jobs, SkipValidation, Body()]
"""Documented as it is, and read job by job: a bad one must not refuse the others."""


def create_api(token: str | None, *, local_only: bool) -> FastAPI:
    """Make the API.

    Args:
        token: The bearer token that every request for jobs must bear; None asks for none.
        local_only: Whether it is bound to loopback. Then only requests by a loopback name are answered, so that
            no page in this machine's browser gets at it by a name of its own that leads here.
    """
    app = FastAPI(title="HyperExport jobs", version=hyperexport.__version__, lifespan=_lifespan)
    if local_only:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_THIS_MACHINE)
    app.add_exception_handler(httpx.HTTPError, _prefect_is_away)
    app.include_router(_open)
    app.include_router(_guarded, dependencies=[Depends(_guard(token))] if token else [])
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with get_client() as client:
        app.state.prefect = client
        yield


def _prefect(request: Request) -> PrefectClient:
    return request.app.state.prefect


Prefect = Annotated[PrefectClient, Depends(_prefect)]


def _guard(token: str) -> Any:
    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]) -> None:
        if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "send the server's HYPEREXPORT_API_TOKEN as Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


def _prefect_is_away(_request: Request, error: Exception) -> JSONResponse:
    words = f"the Prefect API does not answer: {type(error).__name__}"
    return JSONResponse({"detail": words}, status.HTTP_503_SERVICE_UNAVAILABLE)


_open: Final = APIRouter()
_guarded: Final = APIRouter()


@_open.get("/health")
async def health(prefect: Prefect, response: Response) -> dict[str, str]:
    """Tell whether jobs can be taken: this process lives, and Prefect answers."""
    trouble = await prefect.api_healthcheck()
    if trouble:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": "Prefect does not answer", "reason": type(trouble).__name__}
    return {"status": "ok"}


@_guarded.get("/status")
async def server_status(prefect: Prefect) -> dict[str, str | int]:
    """Tell the version, and how many jobs wait, run and failed."""
    waiting = [StateType.SCHEDULED, StateType.PENDING]
    return {
        "version": hyperexport.__version__,
        "waiting": sum([await jobs.count(prefect, state) for state in waiting]),
        "running": await jobs.count(prefect, StateType.RUNNING),
        "failed": await jobs.count(prefect, StateType.FAILED),
    }


@_guarded.post("/jobs/submit", status_code=status.HTTP_202_ACCEPTED, include_in_schema=False)
@_guarded.post("/api/v1/jobs", status_code=status.HTTP_202_ACCEPTED, responses={422: {"model": Accepted}})
async def submit(document: Submission, prefect: Prefect, response: Response) -> Accepted:
    """Submit one job, an array of jobs, or {"jobs": [...]}; 422 if not one is accepted."""
    good, errors = await run_in_threadpool(read_jobs, document)  # blocks are loaded without a loop
    ids = [await jobs.submit(prefect, job) for job in good]
    if not ids:
        response.status_code = status.HTTP_422_UNPROCESSABLE_CONTENT
    return Accepted(job_ids=ids, accepted=len(ids), rejected=len(errors), errors=errors, timestamp=datetime.now(UTC))


@_guarded.get("/api/v1/jobs")
async def list_jobs(
    prefect: Prefect,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
    state: StateType | None = None,
) -> JobList:
    """List jobs, the newest first."""
    return JobList(jobs=await jobs.newest(prefect, limit=limit, offset=offset, state=state))


@_guarded.get("/jobs/{job}", include_in_schema=False)
@_guarded.get("/api/v1/jobs/{job}")
async def job_details(job: UUID, prefect: Prefect) -> JobDetails:
    """Tell how a job stands, how far it is, and what it came to."""
    try:
        return await jobs.details(prefect, job)
    except jobs.JobNotFound as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error


@_guarded.post("/api/v1/jobs/{job}/cancel", status_code=status.HTTP_202_ACCEPTED)
async def cancel_job(job: UUID, prefect: Prefect) -> JobDetails:
    """Stop a job. It removes its snapshot and what it has written, and is Cancelled when that is done."""
    try:
        await jobs.cancel(prefect, job)
        return await jobs.details(prefect, job)
    except jobs.JobNotFound as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error
    except jobs.JobFinished as error:
        raise HTTPException(status.HTTP_409_CONFLICT, str(error)) from error


@_guarded.post("/jobs/cancel", include_in_schema=False)
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
