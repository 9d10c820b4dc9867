"""A Prefect server of the benchmarks' own, and the flow that is measured against it."""

import atexit
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.direct import options_for
from hyperexport.deployments.local_server import end, launch, provide_persistent_api
from hyperexport.model.manifest import ExportManifest


def provide_own_prefect_api() -> None:
    """Start a whole server with an empty database, as ``hyperexport serve`` does; it ends with this process.

    To be called before anything imports Prefect. All is as by default (heartbeats, logs to the server), but that
    nothing is printed.
    """
    home = tempfile.mkdtemp(prefix="bench-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)  # runs after the server's end, which registers later
    os.environ.pop("PREFECT_API_URL", None)
    os.environ |= {"PREFECT_HOME": home, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    provide_persistent_api(0)
    logging.getLogger("httpx").setLevel(logging.WARNING)


@contextmanager
def own_server(home: Path) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """Run such a server beside this process, which does not become its client; gives its API's address and its process.

    Args:
        home: A folder of its own, for its database and its log.
    """
    settings = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": "", "PREFECT_SERVER_ANALYTICS_ENABLED": "0"}
    home.mkdir(exist_ok=True)
    with (home / "server.log").open("wb") as log:
        server, address = launch(0, settings, log, whole=True)
        try:
            httpx.get(f"{address}/health", timeout=120).raise_for_status()
            yield address, server
        finally:
            end(server)


def export_by_flow(vm: str, output: Path) -> ExportManifest:
    """Export a VM into a new store by the flow, in this process; both servers are those of the environment."""
    from hyperexport.flows import export_vm  # noqa: PLC0415 - Prefect reads the environment as it is imported

    manifest = export_vm(vm, options_for(output)).manifest
    assert manifest is not None
    return manifest
