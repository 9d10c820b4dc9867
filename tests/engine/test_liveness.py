"""Whether a run is over is proved by its process, and by no clock; every row of the table in ``steps/liveness.py``.

Who looks is a process of its own, in which /proc, the ids or the descriptors are as the row says.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyperexport.base.machine import ProcessIdentity, identity_of, this_machine
from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import Life, at_work_here, is_elsewhere, life_of

pytestmark = pytest.mark.skipif(this_machine() is None, reason="This system has no machine id or no /proc.")

RUN = """
import sys
from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import at_work_here
print(Owner.of_this_process(run="run-1", vcenter="vc", vm="4f0e").model_dump_json(), flush=True)
sys.stdin.readline()
with at_work_here("run-1") as network:
    own = Owner.of_this_process(run="run-1", vcenter="vc", vm="4f0e").announced_in(network)
    print(own.model_dump_json(), flush=True)
    sys.stdin.readline()
print("the run has ended", flush=True)
sys.stdin.readline()
"""

LOOK = """
import resource, sys
from hyperexport.model.ownership import Owner
from hyperexport.steps.liveness import life_of
owner, held = Owner.model_validate_json(sys.argv[1]), []
if "no descriptors" in sys.argv:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError:
        pass
life = life_of(owner)
[one.close() for one in held]
print(life.name)
"""


class Run:
    """A run in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.owner = self.read()

    def read(self) -> Owner:
        assert self.process.stdout
        return Owner.model_validate_json(self.process.stdout.readline())

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def started() -> Generator[Run]:
    words = [sys.executable, "-c", RUN]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Run(process)
        process.kill()


@pytest.fixture
def run() -> Generator[Run]:
    with started() as run:
        yield run


@pytest.fixture(scope="module", params=["living", "dead"])
def tag(request: pytest.FixtureRequest) -> Generator[Owner]:
    """The tag of a run that lives as long as the tests which only look at it, and of one that was killed."""
    with started() as run:
        if request.param == "dead":
            run.kill()
        yield run.owner


def seen(owner: Owner, *words: str, before: str = "true", unshare: tuple[str, ...] = ("-m",)) -> str:
    """What another process says of a run, after some commands in namespaces of its own."""
    script = f'{before} || exit 9; exec "$@"'
    inside = ["bash", "-c", script, "bash", sys.executable, "-c", LOOK, owner.model_dump_json(), *words]
    done = subprocess.run(["unshare", *unshare, *inside], check=False, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def can_unshare() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-m", "true"], check=False, capture_output=True).returncode == 0


needs_unshare = pytest.mark.skipif(not can_unshare(), reason="Namespaces of one's own are not permitted here.")


def forged(owner: Owner, **changes: object) -> Owner:
    return owner.model_copy(update=changes)


def moved(owner: Owner, **changes: object) -> Owner:
    """A tag that says, rightly signed, that the process was another one."""
    identity = ProcessIdentity.parse(owner.process or "")
    assert identity
    return owner.model_copy(update={"process": str(identity._replace(**changes))}).signed()


# -- what is proved ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=1)], ids=["yesterday", "tomorrow"])
def test_a_living_and_a_dead_process_are_told_apart_whatever_the_clocks_say(run: Run, jump: timedelta) -> None:
    owner = run.owner.model_copy(update={"started": datetime.now(UTC) + jump}).signed()
    assert life_of(owner) is Life.ALIVE
    run.kill()
    assert life_of(owner) is Life.DEAD


def test_a_process_that_was_killed_and_that_nobody_has_waited_for_is_dead(run: Run) -> None:
    run.process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, run.process.pid, os.WEXITED | os.WNOWAIT)
    assert life_of(run.owner) is Life.DEAD


def test_a_process_whose_main_thread_alone_has_ended_is_alive() -> None:
    code = (
        "import ctypes, threading, time\n"
        "from hyperexport.model.ownership import Owner\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        'print(Owner.of_this_process(run="run-1", vcenter="vc", vm="4f0e").model_dump_json(), flush=True)\n'
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("The number of the system call exit is x86-64's.")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        run = Run(process)
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            pass
        assert life_of(run.owner) is Life.ALIVE
        process.kill()


def test_a_number_that_was_given_again_is_another_process(run: Run) -> None:
    identity = identity_of(run.process.pid)
    assert identity
    assert life_of(moved(run.owner, ticks=identity.ticks - 1)) is Life.DEAD


def test_a_run_that_has_ended_in_a_process_that_goes_on_is_dead_for_other_processes(run: Run) -> None:
    run.go_on()
    announced = run.read()
    assert announced.network
    assert life_of(announced) is Life.ALIVE
    run.go_on()
    assert run.process.stdout
    run.process.stdout.readline()
    assert life_of(announced) is Life.DEAD
    elsewhere = announced.announced_in("4026530000")
    assert life_of(elsewhere) is Life.ALIVE, "its announcement could not be seen from here"
    assert life_of(run.owner) is Life.ALIVE, "its tag says of no announcement"


def test_a_run_of_this_process_is_dead_once_it_has_ended_and_alive_when_it_is_tried_again() -> None:
    owner = Owner.of_this_process(run="mine", vcenter="vc", vm="4f0e")
    with at_work_here("mine"):
        assert life_of(owner) is Life.ALIVE
    assert life_of(owner) is Life.DEAD
    with at_work_here("mine"):
        assert life_of(owner) is Life.ALIVE


# -- what is doubt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"boot": "0" * 32}, {"namespace": "4026530000-4026531834"}, {"namespace": "4026531836-4026530000"}],
    ids=["another boot", "another PID namespace", "another time namespace"],
)
def test_what_another_boot_or_namespace_ran_is_unknown(tag: Owner, changes: dict[str, str]) -> None:
    owner = moved(tag, **changes)
    assert life_of(owner) is Life.UNKNOWN
    assert is_elsewhere(owner)


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": "0" * 32},
        {"host": "elsewhere"},
        {"process": None},
        {"run": "another"},
        {"pid": 2**22 + 1},
        {"proof": None},
        {"proof": "0" * 32},
        {"keep": True},
        {"thing": "a user's snapshot"},
        {"vm": "another"},
    ],
    ids=lambda changes: f"another {next(iter(changes))}",
)
def test_a_tag_that_this_machine_did_not_write_so_proves_nothing(tag: Owner, changes: dict[str, object]) -> None:
    assert life_of(forged(tag, **changes)) is Life.UNKNOWN


def test_an_earlier_versions_tag_proves_life_but_no_death(run: Run) -> None:
    stat = Path(f"/proc/{run.process.pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    values = dict.fromkeys(("machine", "network", "thing", "proof"))
    earlier = forged(run.owner, **values, process=f"{boot}/{namespace}/{stat[19]}")
    other = forged(earlier, process=f"{boot}/{namespace}/{int(stat[19]) - 1}")
    assert (life_of(earlier), life_of(other)) == (Life.ALIVE, Life.UNKNOWN)
    run.kill()
    assert life_of(earlier) is Life.UNKNOWN


def test_a_tag_of_an_earlier_version_is_still_read() -> None:
    text = (
        '{"tool":"hyperexport","run":"r","vcenter":"vc","vm":"u","host":"backup1","pid":42,"process":"b/4026531836/7",'
        '"started":"2026-11-24T00:00:00Z","keep":false}'
    )
    owner = Owner.from_json(text)
    assert owner
    assert life_of(owner) is Life.UNKNOWN


@needs_unshare
def test_who_sees_everything_tells_the_living_from_the_dead(tag: Owner, request: pytest.FixtureRequest) -> None:
    """The control of the tests below."""
    assert seen(tag) == {"living": "ALIVE", "dead": "DEAD"}[request.node.callspec.params["tag"]]


@needs_unshare
@pytest.mark.parametrize(
    "before",
    [
        "mount -t tmpfs none /proc/sys",
        "mount -t tmpfs none /proc",
        "umount -l /proc",
        "mount --bind /dev/null /proc/sys/kernel/random/boot_id",
        "mount --bind /dev/null /etc/machine-id && { [ ! -e /var/lib/dbus ] || mount -t tmpfs none /var/lib/dbus; }",
    ],
    ids=["no /proc/sys", "an empty /proc", "no /proc", "no boot id", "no machine id"],
)
def test_who_cannot_read_its_own_ids_proves_nothing(tag: Owner, before: str) -> None:
    assert seen(tag, before=before) == "UNKNOWN"


@needs_unshare
def test_a_shared_host_name_is_no_identity_and_another_one_is_no_doubt(run: Run, tmp_path: Path) -> None:
    for name, path in (("boot", "/proc/sys/kernel/random/boot_id"), ("machine", "/etc/machine-id")):
        other = tmp_path / name
        other.write_text(f"{'0123456789abcdef' * 2}\n")
        assert seen(run.owner, before=f"mount --bind {other} {path}") == "UNKNOWN"
    assert seen(run.owner, before="hostname elsewhere", unshare=("-m", "-u")) == "ALIVE"
    run.kill()
    assert seen(run.owner, before="hostname elsewhere", unshare=("-m", "-u")) == "DEAD"


@needs_unshare
@pytest.mark.parametrize("unshare", [("-p", "-f"), ("-p", "-f", "--mount-proc")], ids=["the outer /proc", "its own"])
def test_another_pid_namespace_on_this_machine_proves_nothing(run: Run, unshare: tuple[str, ...]) -> None:
    assert seen(run.owner, unshare=("-m", *unshare)) == "UNKNOWN"
    run.kill()
    assert seen(run.owner, unshare=("-m", *unshare)) == "UNKNOWN"


@needs_unshare
def test_a_process_that_proc_does_not_show_is_unknown(run: Run) -> None:
    hide = f"mount -t tmpfs none /proc/{run.process.pid}"
    assert seen(run.owner, before=hide) == "UNKNOWN"


@needs_unshare
def test_who_has_no_descriptor_left_proves_nothing(tag: Owner) -> None:
    assert seen(tag, "no descriptors") == "UNKNOWN"


def test_a_tag_says_no_id_of_the_machine_as_it_is(run: Run) -> None:
    machine = Path("/etc/machine-id")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    text = json.dumps(run.owner.model_dump(mode="json"))
    assert boot not in text
    assert not machine.exists() or machine.read_text().strip() not in text


def test_an_identity_is_read_as_it_was_written() -> None:
    identity = identity_of(os.getpid())
    assert identity
    assert ProcessIdentity.parse(str(identity)) == identity
    for nonsense in ("nonsense", "a/b/", "a/b/x", "a/b/²", "/b/1"):
        assert ProcessIdentity.parse(nonsense) is None
    assert identity_of(2**22 + 1) is None


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_a_tag_with_a_number_that_no_process_has_is_none(pid: int) -> None:
    owner = Owner.of_this_process(run="r", vcenter="vc", vm="u")
    text = owner.model_dump_json().replace(f'"pid":{owner.pid}', f'"pid":{pid}')
    assert Owner.from_json(text) is None
