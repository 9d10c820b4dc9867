"""Does exports in processes that are killed on purpose: a fork server, one line of JSON in, one out.

Run as ``python -m tests.faults.victim``. What it forks runs the shipped runbook through ``hyperexport.api``, and the
reaper's job, without Prefect, so that a kill costs no server and no second. A process is killed by itself, at
the Nth thing that somebody outside of it can notice: a call that changes or syncs the filesystem, or bytes that leave
or reach a socket. Or it is killed from outside, after so many seconds.
"""

import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

from urllib3.util import Timeout

from hyperexport import api
from hyperexport.base import retry as with_retries
from hyperexport.errors import HyperExportError
from hyperexport.jobs.direct import DirectRunner
from hyperexport.jobs.reap import reap_snapshots
from hyperexport.options.precedence import ExportOptions
from hyperexport.store import s3_errors, s3_parts, s3_settings, s3_upload
from hyperexport.transfer import source
from hyperexport.vsphere import snapshots
from tests.faults.mischief import do_mischief, tell_of
from tests.faults.watch import Watch

SECONDS = 150
"""That no run may take; the system then ends it, and the test sees by which signal."""

_write = os.write  # the watch counts the other one


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run the flow that is asked for, and say how it ended."""
    os.environ.update(request["environment"])
    options = ExportOptions.from_keys(request["options"])
    try:
        match request["flow"]:
            case "export":
                result: object = api.export(request["vm"], options)
            case "restore":
                result = api.restore(vm=request["vm"], options=options, **request["restore"])
            case "drill":
                result = api.restore_drill(vm=request["vm"], options=options, **request["restore"])
            case "cleanup":
                result = api.cleanup_exports(options)
            case "verify":
                result = api.verify_exports(options=options)
            case _:
                result = reap_snapshots(DirectRunner(), options)
    except HyperExportError as error:
        return {"code": error.code, "exit_code": error.exit_code, "message": str(error)}
    except SystemExit as error:  # SIGTERM: see ``mischief.py``
        return {"code": "stopped", "exit_code": int(error.code or 0), "message": ""}
    undeleted = [words for cleanup in getattr(result, "cleanups", ()) for words in cleanup.failed]
    warnings = [*getattr(result, "warnings", ()), *undeleted]
    return {"code": None, "exit_code": 0, "message": "", "warnings": warnings}


def live(request: dict[str, Any], answer: int) -> None:
    """The child's whole life."""
    signal.alarm(SECONDS)
    told = threading.Lock()

    def tell(**facts: Any) -> None:
        with told:
            _write(answer, json.dumps(facts).encode())

    def die(event: str, step: str, count: int) -> None:
        tell(killed=True, event=event, step=step, count=count)
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    watch = Watch(kill_at=request.get("kill_at"), kill_in=request.get("kill_in"), die=die)
    do_mischief(request.get("mischief", {}), watch)
    watch.begin()
    try:
        ended = work(request)
    except Exception as error:  # noqa: BLE001 - a traceback is what the test has to see
        traceback.print_exc()
        ended = {"code": "traceback", "exit_code": 70, "message": repr(error)}
    tell(killed=False, events=watch.steps, count=watch.count, mischief=tell_of(), **ended)


def impatient() -> None:
    """What is tried again is tried as often as ever, but sooner; and a small disk is an upload of several parts."""
    with_retries.RETRY_DELAYS = (0.0, 0.0, 0.0)
    s3_upload._SIZES = (1 << 20,) * len(s3_upload._SIZES)
    s3_errors.FIRST_PAUSE = 0.01
    s3_settings.CONTROL_ATTEMPTS = 2
    s3_parts._TIMEOUT = Timeout(connect=3, read=3)
    # contextmanager() keeps what it wraps; a default is bound when a function is made.
    source.open_source.__wrapped__.__kwdefaults__["read_timeout"] = 3.0  # type: ignore[attr-defined]
    snapshots.remove_snapshot.__kwdefaults__["timeout"] = 3.0


def main() -> None:
    """Fork for each line that comes; answer with a line when that child has ended."""
    impatient()
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            live(request, writing)
            os._exit(0)
        os.close(writing)
        after = request.get("kill_after")
        killer = threading.Timer(after, os.kill, (child, signal.SIGKILL)) if after is not None else None
        if killer:
            killer.start()
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        if killer:
            killer.cancel()
            killer.join()
        _, status = os.waitpid(child, 0)
        # Who is killed from outside has told nothing.
        facts = json.loads(answer or json.dumps({"killed": after is not None, "event": f"after {after} s"}))
        facts["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
