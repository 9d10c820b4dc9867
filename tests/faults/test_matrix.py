"""Everything that can go wrong, at every place where it can: the export is true, or there is none, and nothing is left.

``CELLS`` says what is done; ``ELSEWHERE`` says of every other combination why there is nothing to do, or which test
does it. The two together are the whole table, and a test holds them to it. Each fault is seen to have happened.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hyperexport.simulator import Fault, FaultKind, Simulator
from tests.engine.s3_proxy import Fault as Wire
from tests.engine.s3_proxy import Proxy, faulty_proxy
from tests.engine.s3_servers import S3Server
from tests.faults.harness import Outcome, Victims
from tests.faults.scenes import LOCAL, S3, Form, Scene

FIRST, LAST, DESCRIPTOR, VERIFY, UPLOAD, CLEANUP = PLACES = (
    "first disk",
    "last disk",
    "descriptor",
    "verify",
    "upload",
    "cleanup",
)
HALF = 100_000
DAY = 86_400
ON_DISK = Form("matrix local", (LOCAL,), {"verify": True})
IN_S3 = Form("matrix S3", (S3,), {"verify": "deep"})
CHAINS = {"incremental": True, "max_chain": 3}
CHAINS_ON_DISK = Form("matrix local deltas", (LOCAL,), {**ON_DISK.options, **CHAINS})
CHAINS_IN_S3 = Form("matrix S3 deltas", (S3,), {**IN_S3.options, **CHAINS})
FORMS_ON_DISK = pytest.mark.parametrize("form", [ON_DISK, CHAINS_ON_DISK], ids=["whole", "deltas"])
FORMS_IN_S3 = pytest.mark.parametrize("form", [IN_S3, CHAINS_IN_S3], ids=["whole", "deltas"])


@dataclass(frozen=True)
class Cell:
    """One fault at one place.

    Args:
        fault: Its name.
        place: Where it happens.
        server: What the simulated vCenter is told to do.
        wire: What is done to requests to S3, by a part of the request; None in the second place for ever.
        mischief: What is done to the process.
        code: The error that the run must end with; None for a run that must end well.
        complete: Whether the export is there all the same.
        words: What the message or a warning must say.
        leaves: Whether something may be left until the next run.
        options: More options for the run.
    """

    fault: str
    place: str
    server: Fault | None = None
    wire: tuple[str, str, Wire, int] | None = None
    mischief: dict[str, Any] = field(default_factory=dict[str, Any])
    code: str | None = None
    complete: bool | None = None
    words: str = ""
    leaves: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        return f"{self.fault}, {self.place}{f', {self.code}' if self.code else ''}"


def on_disks(fault: str, kind: FaultKind, code: str | None = None, **how: Any) -> list[Cell]:
    """The same fault at the first disk and at the last."""
    return [Cell(fault, place, Fault(kind, disk=disk, **how), code=code) for disk, place in ((0, FIRST), (1, LAST))]


def on_steps(seconds: float) -> list[Cell]:
    """The clock set wrong as each place begins."""
    steps = {FIRST: "transfer", LAST: "nvram", DESCRIPTOR: "describe", VERIFY: "verify", CLEANUP: "cleanup"}
    way = "forward" if seconds > 0 else "back"
    return [
        Cell(f"clock jump {way}", place, mischief={"clock": {"step": step, "seconds": seconds}})
        for place, step in steps.items()
    ]


EVER = 0
CELLS: list[Cell] = [
    *on_disks("connection reset", FaultKind.CUT, at_byte=HALF),
    *on_disks("connection reset", FaultKind.CUT, "transfer-interrupted", at_byte=HALF, times=EVER),
    Cell("connection reset", DESCRIPTOR, wire=("PUT", ".ovf", Wire.HANG_UP, 1)),
    Cell("connection reset", VERIFY, wire=("GET", "-disk-0.vmdk", Wire.HANG_UP, 1)),
    Cell("connection reset", UPLOAD, wire=("PUT", "-disk-1.vmdk", Wire.HANG_UP, 1)),
    Cell("connection reset", CLEANUP, wire=("DELETE", "export.json", Wire.HANG_UP, 1)),
    *on_disks("stall", FaultKind.STALL, at_byte=HALF, delay=60),
    Cell("stall", UPLOAD, wire=("PUT", "-disk-1.vmdk", Wire.STALL, 1)),
    *on_disks("truncated chunk", FaultKind.TRUNCATE, at_byte=HALF),
    *on_disks("truncated chunk", FaultKind.TRUNCATE, "stream-corrupt", at_byte=HALF, times=EVER),
    *on_disks("5xx", FaultKind.HTTP_STATUS, status=503),
    *on_disks("5xx", FaultKind.HTTP_STATUS, "transfer-interrupted", status=500, times=EVER),
    Cell("5xx", DESCRIPTOR, Fault(FaultKind.HTTP_STATUS, method="CreateDescriptor", status=503)),
    Cell("5xx", CLEANUP, Fault(FaultKind.HTTP_STATUS, method="RemoveSnapshot_Task", status=503)),
    *on_disks("401", FaultKind.HTTP_STATUS, "permission-missing", status=401, times=EVER),
    *on_disks("lease expiry", FaultKind.LEASE_EXPIRED, at_byte=HALF),
    *on_disks("session expiry", FaultKind.SESSION_EXPIRED, at_byte=HALF),
    Cell("session expiry", DESCRIPTOR, Fault(FaultKind.SESSION_EXPIRED, method="CreateDescriptor")),
    Cell("session expiry", CLEANUP, Fault(FaultKind.SESSION_EXPIRED, method="RemoveSnapshot_Task")),
    *on_disks("corrupt byte", FaultKind.CORRUPT, at_byte=HALF),
    *on_disks("corrupt byte", FaultKind.CORRUPT, "checksum-mismatch", at_byte=HALF, times=EVER),
    Cell("corrupt byte", UPLOAD, wire=("PUT", "-disk-1.vmdk", Wire.CORRUPT, 1)),
    Cell("slow consolidation", CLEANUP, Fault(FaultKind.SLOW_CONSOLIDATION, delay=2)),
    Cell(
        "failed snapshot removal",
        CLEANUP,
        Fault(FaultKind.REMOVE_SNAPSHOT_FAILED, times=EVER),
        code="snapshot-leaked",
        complete=True,
        words="could not be removed",
        leaves=True,
    ),
    Cell("quiesce failure", FIRST, Fault(FaultKind.QUIESCE_FAILED, times=EVER), words="crash-consistent"),
    Cell(
        "quiesce failure",
        FIRST,
        Fault(FaultKind.QUIESCE_FAILED, times=EVER),
        code="quiesce-failed",
        options={"quiesce_required": True},
    ),
    Cell("EIO", FIRST, mischief={"eio": {"event": "os.write", "name": "-disk-0.vmdk"}}, code="store-unusable"),
    Cell("EIO", LAST, mischief={"eio": {"event": "os.fsync", "name": "-disk-1.vmdk"}}, code="store-unusable"),
    Cell("EIO", DESCRIPTOR, mischief={"eio": {"event": "os.fsync", "name": ".ovf"}}, code="store-unusable"),
    Cell(
        "EIO",
        CLEANUP,
        mischief={"eio": {"event": "os.remove", "name": "export.json", "times": 1}},
        words="cannot remove",
        leaves=True,
    ),
    *[
        Cell("S3 slow-down", place, wire=(method, name, Wire.SLOW_DOWN, 1))
        for place, method, name in (
            (FIRST, "PUT", "-disk-0.vmdk"),
            (LAST, "PUT", "-disk-1.vmdk"),
            (DESCRIPTOR, "PUT", ".ovf"),
            (VERIFY, "GET", "-disk-0.vmdk"),
            (UPLOAD, "PUT", "export.json"),
            (CLEANUP, "DELETE", "export.json"),
        )
    ],
    Cell("S3 slow-down", UPLOAD, wire=("PUT", "-disk-1.vmdk", Wire.SLOW_DOWN, EVER), code="store-unreachable"),
    Cell("S3 slow-down", DESCRIPTOR, wire=("PUT", ".ovf", Wire.SLOW_DOWN, EVER), code="store-unreachable"),
    *on_steps(DAY),
    *on_steps(-DAY),
]

_WIRE_OF_DISKS = "only a disk's download has a stream that this can happen to"
ELSEWHERE: dict[str, dict[str, str]] = {
    "stall": {
        DESCRIPTOR: "pyVmomi's calls end by their own timeout: tests/engine/test_session.py",
        VERIFY: "the same client as the upload's",
        CLEANUP: "as for the descriptor; a removal that takes long is slow consolidation",
    },
    "truncated chunk": dict.fromkeys((DESCRIPTOR, VERIFY, UPLOAD, CLEANUP), _WIRE_OF_DISKS),
    "5xx": {VERIFY: "is S3 slow-down, verify", UPLOAD: "is S3 slow-down, upload"},
    "401": {
        **dict.fromkeys((DESCRIPTOR, CLEANUP), "SOAP has faults in place of 401: session expiry"),
        **dict.fromkeys((VERIFY, UPLOAD), "S3's refusals of a key: tests/engine/s3_store/"),
    },
    "lease expiry": dict.fromkeys((DESCRIPTOR, VERIFY, UPLOAD, CLEANUP), "no lease is held then"),
    "session expiry": dict.fromkeys((VERIFY, UPLOAD), "these need no session"),
    "corrupt byte": {
        DESCRIPTOR: "TLS guards the call, and no second source would tell",
        VERIFY: "every bit of what is stored: tests/faults/test_damage.py",
        CLEANUP: "it moves no bytes",
    },
    "slow consolidation": dict.fromkeys((FIRST, LAST, DESCRIPTOR, VERIFY, UPLOAD), "it happens at the removal"),
    "failed snapshot removal": dict.fromkeys((FIRST, LAST, DESCRIPTOR, VERIFY, UPLOAD), "it happens at the removal"),
    "quiesce failure": dict.fromkeys((LAST, DESCRIPTOR, VERIFY, UPLOAD, CLEANUP), "it happens before the first disk"),
    "EIO": {
        UPLOAD: "what is uploaded comes from memory; every write of a local disk: tests/faults/test_enospc.py",
        VERIFY: "a disk that cannot be read is a finding: tests/engine/test_verify.py",
    },
    "S3 slow-down": {},
    "clock jump forward": {UPLOAD: "a signature of another day is refused by S3, whoever asks; said in so many words"},
    "clock jump back": {UPLOAD: "a signature of another day is refused by S3, whoever asks; said in so many words"},
    "SMTP down": dict.fromkeys(
        PLACES, "a mail is sent before and after all of these: tests/flows/test_notifications.py"
    ),
}


def test_the_table_has_no_hole() -> None:
    done = {(cell.fault, cell.place) for cell in CELLS}
    said = {(fault, place) for fault, places in ELSEWHERE.items() for place in places}
    faults = {cell.fault for cell in CELLS} | set(ELSEWHERE)
    assert done & said == set()
    assert {(fault, place) for fault in faults for place in PLACES} - done - said == set()


@pytest.fixture(scope="module")
def stages(
    vcenter: Simulator, fresh: Iterator[str], fork_server: Victims, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Form, S3Server | None], Scene]:
    """One scene a form for the whole matrix, with as many exports as cleanup needs to have something to do."""
    made: dict[str, Scene] = {}

    def stage(form: Form, s3: S3Server | None) -> Scene:
        if form.name not in made:
            folder = tmp_path_factory.mktemp("matrix")
            at = Scene(form, simulator=vcenter, vm=next(fresh), victims=fork_server, folder=folder, s3=s3)
            for _ in range(3):
                assert at.export().ok
            made[form.name] = at
        return made[form.name]

    return stage


@contextmanager
def through(proxy: Proxy | None, at: Scene) -> Iterator[None]:
    """Let a scene's runs reach S3 by way of the proxy."""
    if proxy is None:
        yield
        return
    straight = at.options["s3_endpoint"], at.environment["AWS_CA_BUNDLE"]
    at.options["s3_endpoint"], at.environment["AWS_CA_BUNDLE"] = proxy.endpoint_url, str(proxy.ca_file)
    try:
        yield
    finally:
        at.options["s3_endpoint"], at.environment["AWS_CA_BUNDLE"] = straight


def arm(cell: Cell, at: Scene, proxy: Proxy | None, met: list[str]) -> None:
    """Have the fault happen when its place is reached."""
    if cell.server:
        # What describes VMs belongs to no VM; all else is aimed at the scene's own.
        aim = {} if cell.server.method == "CreateDescriptor" else {"vm": at.vm}
        at.simulator.faults.add(Fault(**{**vars(cell.server), **aim}))
    if cell.wire and proxy:
        method, part, fault, times = cell.wire

        def strike(request: str, _count: int) -> Wire | None:
            target = request.partition("?")[0]
            if not request.startswith(method) or not target.endswith(part) or (times and len(met) >= times):
                return None
            met.append(request)
            return fault

        proxy.fault = strike


def assert_told(cell: Cell, outcome: Outcome, at: Scene) -> None:
    """The exit code, the error and its words are those that a person should see."""
    assert not outcome.killed
    assert outcome.signal is None
    # A delta's grains are inflated on the way, and a corrupt one does not inflate before any checksum is known.
    also = {"stream-corrupt"} if cell.code == "checksum-mismatch" and at.form.options.get("max_chain") else set[str]()
    assert outcome.code in {cell.code, *also}, outcome
    assert outcome.exit_code == (1 if cell.code else 0), outcome
    assert cell.words in " ".join((outcome.message, *outcome.warnings))
    assert "\n" not in outcome.message
    assert at.simulator.password not in outcome.message


def strike(cell: Cell, at: Scene, proxy: Proxy | None) -> None:
    """One cell: the fault, the truth of what is listed, what is said, and what is left."""
    met: list[str] = []
    listed = {str(export) for export in at.exports()}
    at.simulator.faults.clear()
    arm(cell, at, proxy, met)
    with through(proxy, at):
        outcome = at.export(mischief=cell.mischief, options=cell.options)
    happened = [*met, *outcome.mischief, *(str(fault.kind) for fault in at.simulator.faults.fired)]
    at.simulator.faults.clear()
    assert happened, f"the fault was never met: {outcome}"
    assert_told(cell, outcome, at)
    complete = cell.code is None if cell.complete is None else cell.complete
    assert bool({str(export) for export in at.exports()} - listed) == complete
    if not cell.leaves:
        assert at.leftovers() == []
    following = at.export()
    assert following.ok, following
    assert at.leftovers() == []


SAMPLE = [cell for cell in CELLS if str(cell) in {"truncated chunk, last disk", "EIO, first disk, store-unusable"}]


@pytest.mark.parametrize("cell", SAMPLE, ids=str)
def test_a_sample_of_the_matrix(cell: Cell, stages: Callable[[Form, S3Server | None], Scene]) -> None:
    strike(cell, stages(ON_DISK, None), None)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.wire], ids=str)
@FORMS_ON_DISK
def test_on_the_server_and_on_this_machine(
    cell: Cell, form: Form, stages: Callable[[Form, S3Server | None], Scene]
) -> None:
    strike(cell, stages(form, None), None)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.wire], ids=str)
@FORMS_IN_S3
def test_on_the_way_to_s3(
    cell: Cell, form: Form, stages: Callable[[Form, S3Server | None], Scene], s3: S3Server, tmp_path: Path
) -> None:
    if form is CHAINS_IN_S3 and cell.wire and cell.wire[0] == "DELETE":
        pytest.skip("this cleanup deletes nothing: a delta holds the export that it builds on")
    with faulty_proxy(s3, tmp_path) as proxy:
        strike(cell, stages(form, s3), proxy)
