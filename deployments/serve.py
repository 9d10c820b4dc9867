"""One process that serves every deployment of this project, and the jobs API if asked for, until it is stopped.

It puts the deployments without a schedule in place and then works off the pool's queue: also what is scheduled while
it runs, by whomever. Stopped, it lets nothing new begin, cancels what runs, and waits for the cleanup.
"""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Final

import uvicorn
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_WORKER_QUERY_SECONDS, temporary_settings

from hyperexport.deployments.allowed_roots import AllowedRoots
from hyperexport.deployments.definitions import (
    POOL,
    ensure_block_types,
    ensure_deployment,
    ensure_pool,
    on_demand_deployments,
)
from hyperexport.deployments.http_guard import BoundedHeaders
from hyperexport.deployments.jobs_api import create_api
from hyperexport.deployments.worker import DrainingWorker
from hyperexport.deployments.zombie_runs import detect_zombie_runs
from hyperexport.errors import UsageError

logger = logging.getLogger("hyperexport.serve")

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(
    *,
    limit: int,
    api: socket.socket | None = None,
    token: str | None = None,
    output_roots: tuple[str, ...] = (),
    users: frozenset[int] | None = None,
    on_ready: Callable[[], None],
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. To be called in the main thread, with a Prefect API configured.

    Args:
        limit: Maximum number of concurrent runs.
        api: The socket on which the jobs API listens; None for no jobs API.
        token: The bearer token that the jobs API asks for.
        output_roots: The folders and S3 prefixes below which jobs may write; the service's own stores if empty.
        users: The users of this machine whom the jobs API answers where it asks for no token; None for all.
        on_ready: Called when everything is in place.
    """
    ensure_pool()
    ensure_block_types()
    for deployment in on_demand_deployments():
        ensure_deployment(deployment)
    defaults = temporary_settings(
        set_defaults={PREFECT_WORKER_QUERY_SECONDS: 2.0, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}
    )
    with defaults, _jobs_api(api, token, output_roots, users):
        detect_zombie_runs()
        asyncio.run(_work(limit, on_ready))


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Open the jobs API's socket.

    Raises:
        UsageError: The address cannot be listened on, or others could reach it and there is no token.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        if not token and not ip_address(str(address[0])).is_loopback:
            raise UsageError(
                f"the jobs API on {host} could be used by anyone on the network",
                fix="Set HYPEREXPORT_API_TOKEN to a long random string; callers send it as their bearer token",
            )
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise UsageError(
            f"the jobs API cannot listen on {host} port {port}: {error.strerror or error}",
            fix="Choose another --api-host or --api-port",
        ) from error


async def _work(limit: int, on_ready: Callable[[], None]) -> None:
    """Be a worker until a signal comes; then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does with SIGHUP
            loop.add_signal_handler(number, stop.set)
    # Flow processes inherit what is blocked here, and must hear the SIGTERM of their cancellation.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    worker = DrainingWorker(POOL, limit=limit, on_ready=on_ready)
    working = asyncio.create_task(worker.start(printer=logger.debug))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() and not working.done():
        await worker.drain()
        working.cancel()
    stopping.cancel()
    try:
        await working
    except asyncio.CancelledError:
        logger.info("stopped")


@contextmanager
def _jobs_api(
    listener: socket.socket | None, token: str | None, output_roots: tuple[str, ...], users: frozenset[int] | None
) -> Generator[None]:
    """Answer the jobs API from a thread of its own."""
    if listener is None:
        yield
        return
    loopback = ip_address(str(listener.getsockname()[0])).is_loopback
    users = None if token else users
    app = create_api(token, local_only=loopback, allowed=AllowedRoots.of_service(output_roots), users=users)
    settings = uvicorn.Config(
        app,
        http=BoundedHeaders,
        ws="none",
        log_level="warning",
        proxy_headers=users is None,  # else whom a request is of is asked by the connection's own address
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, args=([listener],), name="jobs-api", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)
