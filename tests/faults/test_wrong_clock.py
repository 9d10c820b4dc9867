"""A wrong clock deletes nothing, shown by a process whose clock libfaketime sets, between its jobs and during them.

The simulated vCenter and the S3 server keep the right time. Which exports must be left is worked out from the order in
which the test made them.
"""

import itertools
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.peers import missing, require_program

LIMITS: dict[str, dict[str, Any]] = {
    "count": {"cleanup_max_count": 1},
    "age": {"cleanup_max_age": "1h"},
    "size": {"cleanup_max_size": 1},
    "free": {"cleanup_min_free": 1 << 60},
}
FAULTS = pytest.mark.faults
EVERY_LIMIT = [pytest.param(limit, id=name, marks=() if name == "count" else FAULTS) for name, limit in LIMITS.items()]
MORE_LEAPS = [("+2d", "+0"), ("+0", "-730d"), ("-730d", "+0")]

WORKER = """
import json, logging, os, sys, time
import hyperexport
from hyperexport.errors import HyperExportError

clock, answers = sys.argv[1], os.dup(1)
os.dup2(2, 1)

def set_clock(text):
    with open(clock + ".new", "w") as file:
        file.write(text + chr(10))
    os.replace(clock + ".new", clock)

class Leap(logging.Handler):
    def __init__(self, words, text):
        super().__init__()
        self.words, self.text = words, text
    def emit(self, record):
        if self.words in record.getMessage():
            set_clock(self.text)

def do(job, options):
    if job == "export":
        result = hyperexport.export("db01", **options)
        made = result.manifest
        return {
            "id": made and made.export_id, "kind": made and made.kind, "reason": made and made.reason,
            "seconds": made and made.transfer.seconds, "warnings": list(result.warnings),
            "started": made and made.started.isoformat(), "finished": made and made.finished.isoformat(),
        }
    (result,) = hyperexport.cleanup_exports(cleanup=True, **options)
    return {"deleted": list(result.deleted), "doubts": list(result.plan.doubts)}

logging.getLogger("hyperexport").setLevel(logging.INFO)
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["environment"])
    time.tzset()
    set_clock(asked["clock"])
    leap = Leap(*asked["leap"]) if asked["leap"] else None
    if leap:
        logging.getLogger("hyperexport").addHandler(leap)
    try:
        answer = {"now": time.time(), **do(asked["job"], asked["options"])}
    except HyperExportError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    except BaseException as error:
        answer = {"error": "raw " + type(error).__name__, "text": repr(error)}
    if leap:
        logging.getLogger("hyperexport").removeHandler(leap)
    os.write(answers, json.dumps(answer).encode() + b"\\n")
"""


@pytest.fixture(scope="module")
def server() -> Generator[Simulator]:
    """A vCenter with the right time."""
    with Simulator([VmSpec("db01", powered_on=False, disks=(DiskSpec(1 << 20),))]) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    """An S3 service with the right time."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as running:
        yield running


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Generator["tuple[subprocess.Popen[str], Path]"]:
    """A process that carries out jobs, and the file that holds how far off its clock is."""
    faketime = require_program("faketime", "no run with a wrong clock is proved")
    library = next(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"), None)
    if library is None:
        missing(f"{faketime} is there without its library libfaketime.so.1, so no run with a wrong clock is proved")
    clock = tmp_path_factory.mktemp("clock") / "offset"
    clock.write_text("+0\n")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(clock)],
        env={**os.environ, **faked},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process, clock
        assert process.stdin
        process.stdin.close()


class Machine:
    """A machine whose clock can be set, with a memory of its own of when clocks agreed."""

    def __init__(self, process: "subprocess.Popen[str]", simulator: Simulator, home: Path) -> None:
        self.process = process
        self.store = home / "store"
        self.environment = {
            "GOVC_URL": simulator.url,
            "GOVC_USERNAME": simulator.username,
            "GOVC_PASSWORD": simulator.password,
            "GOVC_TLS_CA_CERTS": "",
            # A certificate has dates, and a thumbprint has none.
            "HYPEREXPORT_VSPHERE_THUMBPRINT": simulator.thumbprint,
            "XDG_STATE_HOME": str(home / "state"),
            "TZ": "UTC",
        }

    def ask(
        self, job: str, clock: str = "+0", *, leap: tuple[str, str] | None = None, tz: str = "UTC", **options: Any
    ) -> dict[str, Any]:
        """Carry out a job with the clock so far off.

        Args:
            job: ``export`` or ``cleanup``.
            clock: How far off the clock is, such as ``+2d``.
            leap: Words of a log line, and how far off the clock is from the moment on in which the job logs them.
            tz: The machine's time zone.
            options: The job's options.
        """
        asked = {
            "job": job,
            "clock": clock,
            "leap": leap,
            "environment": {**self.environment, "TZ": tz},
            "options": {"output": str(self.store), **options},
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def export(self, clock: str = "+0", **options: Any) -> str:
        """Export; returns the export's id."""
        answer = self.ask("export", clock, **options)
        assert "error" not in answer, answer
        return answer["id"]

    def left(self) -> set[str]:
        """The exports in the store, by their folders."""
        return {manifest.parent.name for manifest in self.store.glob("*/*/export.json")}


@pytest.fixture
def machine(server: Simulator, worker: "tuple[subprocess.Popen[str], Path]", tmp_path: Path) -> Machine:
    return Machine(worker[0], server, tmp_path)


# -- exports of another time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", EVERY_LIMIT)
def test_after_an_export_with_the_clock_two_days_ahead_the_next_one_survives_its_own_cleanup(
    machine: Machine, limit: dict[str, Any]
) -> None:
    ahead = machine.export("+2d", incremental=True)
    first = machine.export(incremental=True, cleanup=True, **limit)
    second = machine.export(incremental=True, cleanup=True, **limit)
    assert ahead > max(first, second), "libfaketime did not set the clock"
    assert machine.left() == {ahead, first, second}


@pytest.mark.parametrize("limit", EVERY_LIMIT)
@pytest.mark.parametrize("clock", [pytest.param(one, marks=FAULTS) for one in ("+2d", "+730d", "-2d", "-730d")])
def test_an_export_with_a_wrong_clock_deletes_nothing_beside_a_server_with_the_right_time(
    machine: Machine, clock: str, limit: dict[str, Any]
) -> None:
    right = machine.export()
    wrong = machine.ask("export", clock, cleanup=True, **limit)
    assert machine.left() == {right, wrong["id"]}
    assert any("clock is" in warning and "127.0.0.1" in warning for warning in wrong["warnings"])


@FAULTS
def test_an_export_after_years_with_the_clock_behind_is_the_newest_all_the_same(machine: Machine) -> None:
    before = [machine.export(), machine.export("-730d")]
    after = machine.ask("export", incremental=True, cleanup=True, cleanup_max_count=2)
    assert machine.left() == {before[1], after["id"]}
    assert before[1] in after["reason"] or after["kind"] == "full"


@FAULTS
def test_a_full_export_that_is_dated_in_the_future_is_followed_by_a_full_one(machine: Machine) -> None:
    machine.export("+2d", incremental=True)
    found = machine.ask("export", incremental=True, full_after="30d")
    assert found["kind"] == "full"
    assert "in the future" in found["reason"]
    assert machine.ask("export", incremental=True, full_after="30d")["kind"] == "incremental"


@FAULTS
def test_an_export_of_the_future_is_not_young(machine: Machine) -> None:
    ahead = machine.export("+2d")
    made = machine.export(skip_newer_than="1h")
    machine.ask("export", skip_newer_than="1h")
    assert machine.left() == {ahead, made}


# -- a cleanup by itself ----------------------------------------------------------------------------------------------


@FAULTS
@pytest.mark.parametrize("clock", ["+730d", "-730d"])
def test_a_cleanup_with_the_clock_two_years_off_deletes_nothing_once_clocks_agreed_in_this_boot(
    machine: Machine, clock: str
) -> None:
    made = {machine.export(), machine.export(), machine.export(cleanup=True, cleanup_max_count=10)}
    for limit in LIMITS.values():
        answer = machine.ask("cleanup", clock, **limit)
        assert (answer["deleted"], machine.left()) == ([], made)
        assert "jumped" in answer["doubts"][0]


@FAULTS
def test_a_cleanup_that_no_other_clock_confirms_counts_ages_from_the_newest_export(machine: Machine) -> None:
    made = {machine.export(), machine.export()}
    machine.environment["XDG_STATE_HOME"] += "-of-another-machine"
    answer = machine.ask("cleanup", "+730d", cleanup_max_age="720h")
    assert (answer["deleted"], machine.left()) == ([], made)
    assert "no other clock confirms" in answer["doubts"][0]


# -- leaps during a run, time zones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [("+0", "+2d"), *(pytest.param(*one, marks=FAULTS) for one in MORE_LEAPS)]
)
@pytest.mark.parametrize("limit", EVERY_LIMIT)
def test_a_clock_that_leaps_during_an_export_spoils_neither_its_times_nor_an_earlier_export(
    machine: Machine, before: str, after: str, limit: dict[str, Any]
) -> None:
    """It leaps after the plan, so before the first byte."""
    earlier = {machine.export(incremental=True), machine.export(incremental=True)}
    answer = machine.ask("export", before, leap=(" export: ", after), incremental=True, cleanup=True, **limit)
    kept = machine.left()
    took = datetime.fromisoformat(answer["finished"]) - datetime.fromisoformat(answer["started"])
    assert timedelta(0) < took < timedelta(minutes=2)
    assert 0 < answer["seconds"] < 120
    assert answer["id"] in kept
    if after != "+0":
        assert kept == {*earlier, answer["id"]}  # at the cleanup the clock is wrong
    assert machine.export(incremental=True) in machine.left()


@FAULTS
@pytest.mark.parametrize("limit", [LIMITS["age"], LIMITS["count"]], ids=["age", "count"])
def test_no_time_zone_and_no_change_to_winter_time_makes_an_export_older(
    machine: Machine, limit: dict[str, Any]
) -> None:
    """UTC+14, UTC-11, a zone that nobody knows, and Berlin in the hour that it has twice."""
    now = datetime.now(UTC)
    autumn = datetime(now.year if now.month > 10 else now.year - 1, 10, 31, 1, tzinfo=UTC)
    autumn -= timedelta(days=(autumn.weekday() + 1) % 7)  # the last Sunday, at 01:00 UTC
    apart = [f"-{(now - autumn).total_seconds() + seconds:.0f}" for seconds in (1500, -300)]  # 00:35 and 01:05 UTC
    first, second = (machine.export(clock, tz="Europe/Berlin") for clock in apart)
    assert first < second
    made = {first, second}
    for tz in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "Nowhere/None"):
        answer = machine.ask("cleanup", apart[1], tz=tz, cleanup_max_age="1h", cleanup_trust_clock=True)
        assert (answer["deleted"], machine.left()) == ([], made)
    answer = machine.ask("cleanup", apart[1], tz="Pacific/Kiritimati", cleanup_trust_clock=True, **limit)
    assert machine.left() == (made if "cleanup_max_age" in limit else {second})


# -- S3 and certificates ----------------------------------------------------------------------------------------------


@pytest.fixture
def in_s3(machine: Machine, s3: S3Server) -> dict[str, Any]:
    """Options for a store in a bucket of its own; the machine logs in to the service."""
    bucket = s3.make_bucket(f"clock-{secrets.token_hex(4)}")
    machine.environment |= {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_CA_BUNDLE": str(s3.ca_file),
    }
    return {"upload": f"s3://{bucket}/vms", "keep_local": False, "s3_endpoint": s3.endpoint_url}


@FAULTS
@pytest.mark.parametrize("clock", ["+2d", "+730d", "-2d"])
@pytest.mark.parametrize("job", ["export", "cleanup"])
def test_what_an_s3_service_refuses_for_its_date_ends_in_an_error_that_names_the_clock(
    machine: Machine, in_s3: dict[str, Any], job: str, clock: str
) -> None:
    machine.export(**in_s3)
    limits = {"cleanup_max_count": 1} if job == "cleanup" else {}
    answer = machine.ask(job, clock, **in_s3, **limits)
    assert answer["error"] == "StoreUnusable"
    assert "Set this machine's clock" in answer["text"]
    assert machine.export(**in_s3)


@FAULTS
def test_an_s3_service_whose_date_is_twelve_minutes_off_stops_a_cleanup(
    machine: Machine, in_s3: dict[str, Any]
) -> None:
    for _ in range(2):
        machine.export(**in_s3)
    answer = machine.ask("cleanup", "+12m", cleanup_max_count=1, **in_s3)
    assert answer["deleted"] == []
    assert "12m ahead of" in answer["doubts"][0]
    assert len(machine.ask("cleanup", cleanup_max_count=1, **in_s3)["deleted"]) == 1


@FAULTS
@pytest.mark.parametrize(("clock", "words"), [("+730d", "has expired"), ("-730d", "not yet valid")])
def test_a_certificate_that_is_not_of_this_time_makes_the_clock_a_suspect(
    machine: Machine, server: Simulator, clock: str, words: str
) -> None:
    machine.environment |= {"HYPEREXPORT_VSPHERE_THUMBPRINT": "", "GOVC_TLS_CA_CERTS": str(server.ca_file)}
    answer = machine.ask("export", clock)
    assert answer["error"] == "CertificateUntrusted"
    assert words in answer["text"]
    year = (datetime.now(UTC) + timedelta(days=int(clock.removesuffix("d")))).year
    assert f"this machine's clock, which says {year}-" in answer["text"]
    assert "Set this machine's clock" in answer["text"]


@FAULTS
def test_the_times_of_a_run_are_told_by_a_clock_that_nobody_sets(machine: Machine) -> None:
    seconds = [machine.ask("export", leap=(" export: ", clock))["seconds"] for clock in ("+2d", "-2d")]
    assert all(0 < one < 120 for one in seconds)
    assert all(earlier != later for earlier, later in itertools.pairwise(sorted(machine.left())))
