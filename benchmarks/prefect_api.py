"""A Prefect server of the benchmarks' own, and the flow that is measured against it."""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.direct import options_for
from hyperexport.manifest import ExportManifest


def provide_own_prefect_api() -> None:
    """Start a whole server with an empty database, as ``hyperexport serve`` does; it ends with this process.

    To be called before anything imports Prefect. All is as by default (heartbeats, logs to the server), but that
    nothing is printed.
    """
    home = tempfile.mkdtemp(prefix="bench-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)  # runs after the server's end, which registers later
    os.environ.pop("PREFECT_API_URL", None)
    os.environ |= {"PREFECT_HOME": home, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    from deployments.local_server import provide_lasting_api  # noqa: PLC0415 - see above

    provide_lasting_api(0)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def export_by_flow(vm: str, output: Path) -> ExportManifest:
    """Export a VM into a new store by the flow, in this process; both servers are those of the environment."""
    from flows import export_vm  # noqa: PLC0415 - Prefect reads the environment as it is imported

    manifest = export_vm(vm, options_for(output)).manifest
    assert manifest is not None
    return manifest
