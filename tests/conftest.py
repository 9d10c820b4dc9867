"""What every test may count on: a clean environment, no pauses before another try, files in memory where there is room,
and peers that are there or plainly said to be missing."""

import atexit
import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

import certifi
import psutil
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.conformance.vcsim import Vcsim, running_vcsim
from tests.leftovers import VARIABLE, mark_this_run, still_living
from tests.peers import MISSING, ROOT, PeerMissing, build_go_peers, missing, require_program

if TYPE_CHECKING:
    from tests.flows.service import Service

_FOREIGN = ("AWS_", "GOVC_", "GOVMOMI_", "HYPEREXPORT_", "PREFECT_")
_FOR_TESTS = "HYPEREXPORT_FAULT_"
"""How the tests' own settings begin: how many kills, which seed, how many rounds."""


_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 3 << 30
"""Bytes that have to be free there. The tests take less than half a GiB: the files of one that passed are removed."""


def _keep_files_in_memory() -> None:
    """Put temporary files, those of the processes that tests start too, where fsync costs nothing, if there is room.

    An export waits for the disk sixteen times, a Prefect server with every change of its database. What only a disk can
    do is tested in ``on_disk``.
    """
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return
    found = os.statvfs(_MEMORY)
    runs_programs = not found.f_flag & os.ST_NOEXEC
    if runs_programs and min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available) >= _ROOM:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # asked for again


_keep_files_in_memory()


def _clean_environment() -> None:
    """Let nothing of the developer's own settings reach a test, whichever process it runs in.

    At import, before Prefect or boto3 read anything. The home folder stays what it is; what would be read from it is
    named away.
    """
    for name in [name for name in os.environ if name.startswith(_FOREIGN) and not name.startswith(_FOR_TESTS)]:
        del os.environ[name]
    os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and our tables would obey it
    home = Path(tempfile.mkdtemp(prefix="hyperexport-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(
        AWS_CONFIG_FILE=str(home / "aws-config"),
        AWS_EC2_METADATA_DISABLED="true",
        AWS_SHARED_CREDENTIALS_FILE=str(home / "aws-credentials"),
        DO_NOT_TRACK="1",
        NO_PROXY="127.0.0.1,localhost",
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED="false",  # each new client would ask for a token that no server here has
        PREFECT_API_SSL_CERT_FILE=str(_one_authority(home)),
        PREFECT_HOME=str(home / "prefect"),
        PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        XDG_STATE_HOME=str(home / "state"),
        XDG_CONFIG_HOME=str(home / "config"),
    )


def _one_authority(home: Path) -> Path:
    """The first of the world's certificate authorities: Prefect's client reads its file anew for every connection.

    Reading all of them takes it 40 ms each time, and no Prefect API of the tests has TLS.
    """
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    path = home / "authority.pem"
    path.write_text(first + end)
    return path


_clean_environment()
_ENVIRONMENT: Final = dict(os.environ)
_NOBODY_KEEPS: Final = ("AWS_", "GOVC_", "GOVMOMI_", "HYPEREXPORT_")
"""Variables that would be another vCenter, bucket or option for the next file. Prefect's belong to its servers, which
live longer than a file."""


def _try_again_at_once() -> None:
    """Try again as often as ever what failed in passing, without the pauses before it; for the whole process.

    Prefect's tasks take theirs from ``RETRY_DELAYS`` when they are made.
    """
    from botocore.retries.standard import ExponentialBackoff

    from hyperexport.base import retry
    from hyperexport.store import s3_errors

    retry.RETRY_DELAYS = (0.0,) * len(retry.RETRY_DELAYS)  # pyright: ignore[reportAttributeAccessIssue]
    s3_errors.FIRST_PAUSE = 0.0
    ExponentialBackoff.delay_amount = lambda *_: 0.0  # pyright: ignore[reportAttributeAccessIssue]


_try_again_at_once()

_LONGEST_FIRST = ("ui", "flows", "faults", "conformance", "engine")
"""Folders by how long a file of theirs takes; what is not named comes last."""

_SERVED: Final = (
    "tests/ui/test_ui.py",
    *(f"tests/flows/test_{name}.py" for name in ("automations", "jobs_api", "python_calls", "schedules")),
)
"""Files whose tests share the fixture ``service``: one worker runs them all, and starts it once."""

_LONGEST: Final = (
    *_SERVED,
    "tests/flows/test_deployments.py",
    "tests/engine/test_real_guests.py",
    "tests/flows/test_documented_commands.py",
    "tests/test_distribution.py",
)
"""What takes longest begins first, whatever its folder."""


def scope_of(nodeid: str) -> str:
    """Which tests one worker runs in a row: those of a file, or of the files that share a costly fixture."""
    path = nodeid.split("::", 1)[0]
    return "service" if path in _SERVED else path


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Distribute whole files as ``--dist loadfile`` does, and keep those together that share a server."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cells that ``make test`` leaves to ``make matrix``.

    Give the workers of pytest-xdist the longest files first: no core waits for another's last one.
    """
    _leave_cells_to_the_matrix(items)
    if not hasattr(config, "workerinput"):
        return
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> tuple[int, int]:
        path = item.path.relative_to(here)
        file, folder = f"tests/{path.as_posix()}", path.parts[0]
        return (
            _LONGEST.index(file) if file in _LONGEST else len(_LONGEST),
            _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST),
        )

    items.sort(key=rank)


def _leave_cells_to_the_matrix(items: list[pytest.Item]) -> None:
    """Of a test with the marker ``sample``, mark the cells that it does not name."""
    cells: dict[tuple[Path, str], list[bool]] = {}
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is None or not isinstance(item, pytest.Function):
            continue
        named = any(fnmatchcase(item.callspec.id, pattern) for pattern in sample.args)
        cells.setdefault((item.path, item.originalname), []).append(named)
        if not named:
            item.add_marker(pytest.mark.matrix)
    for (path, name), found in cells.items():
        if len(found) > 1 and True not in found:  # one by itself was asked for by its name
            raise pytest.UsageError(f"{path}: the sample of {name} names none of its cells")


_SERVERS: Final = ("service", "prefect_harness")
"""Fixtures of the whole session whose processes take 1 to 5 % of a core when nobody asks them anything."""

_PLACE: Final = pytest.StashKey[int]()
_LAST_USES: Final = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what collecting makes: nearly all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which test is the last that uses a server.

    Leave what collecting has made, half a million objects that stay, out of every collection of garbage.
    """
    last = session.stash.setdefault(_LAST_USES, {})
    for place, item in enumerate(session.items):
        item.stash[_PLACE] = place
        last.update((name, place) for name in _SERVERS if name in getattr(item, "fixturenames", ()))
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """End a server after the last test that uses it. A test that comes in another order starts it again.

    After the last test of a file the environment is what it was.
    """
    result = yield
    if nextitem is not None and isinstance(item, pytest.Function):
        for name in _SERVERS:
            if item.session.stash[_LAST_USES].get(name, -1) < nextitem.stash[_PLACE]:
                for fixture in item._fixtureinfo.name2fixturedefs.get(name, ()):
                    if fixture.scope == "session" and fixture.cached_result is not None:
                        fixture.finish(item._request)
    if nextitem is None or nextitem.path != item.path:
        left = {name for name, _ in os.environ.items() ^ _ENVIRONMENT.items() if name.startswith(_NOBODY_KEEPS)}
        for name in left:  # the file after it is not to blame
            os.environ.pop(name, None)
        os.environ.update({name: _ENVIRONMENT[name] for name in left if name in _ENVIRONMENT})
        assert not left, f"{item.path.name} leaves variables changed for the next file: {', '.join(sorted(left))}"
    return result


@pytest.fixture(scope="session")
def on_disk() -> Generator[Path]:
    """A folder that is on a disk, whatever temporary files are on."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache", prefix="tests-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator["Service"]:
    """One ``hyperexport serve`` for all tests, which brings a Prefect server of its own: starting it takes long."""
    from tests.flows.service import serving
    from tests.prefect_database import NOTHING_TO_REGISTER, put_into

    folder = tmp_path_factory.mktemp("service")
    environment = {**NOTHING_TO_REGISTER, "PREFECT_HOME": str(put_into(folder / "prefect")), "PREFECT_API_URL": ""}
    roots = f"--api-output-root={tmp_path_factory.getbasetemp()}"
    with serving(folder, "--prefect-port=0", roots, **environment) as running:
        yield running


@pytest.fixture(scope="session")
def go_peers() -> Path:
    """The folder with vcsim and govc."""
    try:
        return build_go_peers()
    except PeerMissing as reason:
        missing(str(reason))


@pytest.fixture(scope="session")
def govc(go_peers: Path) -> Path:
    """VMware's own command line."""
    return go_peers / "govc"


@pytest.fixture(scope="session")
def vcsim(go_peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Vcsim]:
    """One vcsim for this worker's whole session, with two disks in each VM.

    A test that changes more than a VM of its own starts another with ``running_vcsim``.
    """
    with running_vcsim(go_peers, tmp_path_factory.mktemp("vcsim"), "-disks", "2", "-vm", "4") as server:
        yield server


@pytest.fixture(scope="session")
def qemu_img() -> Path:
    """QEMU's tool for disk images."""
    return require_program("qemu-img", "no exported disk is compared with the guest's bytes")


def pytest_configure(config: pytest.Config) -> None:
    """Mark all that this run will start; a worker of pytest-xdist has its controller's mark."""
    if not hasattr(config, "workerinput"):
        mark_this_run()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Fail the suite if a process that it started lives when everything is over; with xdist, in the controller."""
    yield
    if hasattr(session.config, "workerinput"):
        return
    left = still_living(os.environ[VARIABLE])
    reporter: pytest.TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    for process in left if reporter else ():
        reporter.write_line(f"LEFT BEHIND by the tests: {process}", red=True)
    if left and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each missing peer how many tests it cost."""
    marker = f"Skipped: {MISSING}"
    reasons = Counter(
        report.longrepr[2].removeprefix(marker)
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and report.longrepr[2].startswith(marker)
    )
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} tests skipped: {reason}", yellow=True)
