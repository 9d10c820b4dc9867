"""Whether a run is over is told by its process, and by no clock."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from hyperexport.model import ownership
from hyperexport.model.ownership import Owner, ProcessIdentity, identity_of
from hyperexport.steps import liveness
from hyperexport.steps.liveness import on_this_machine, process_is_over


def owner_of(pid: int, **changes: object) -> Owner:
    """The mark that a process leaves, begun at a time that no clock of today agrees with."""
    own = Owner.of_this_process(run="run-1", vcenter="vc", vm="4f0e")
    identity = identity_of(pid)
    values = {"pid": pid, "process": str(identity) if identity else None, **changes}
    return own.model_copy(update=values)


@pytest.fixture
def living():
    """Another process of this machine, which waits until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=1)], ids=["yesterday", "tomorrow"])
def test_a_living_process_is_not_over_whatever_the_clocks_say(living: subprocess.Popen, jump: timedelta) -> None:
    assert not process_is_over(owner_of(living.pid, started=datetime.now(UTC) + jump))
    assert not process_is_over(owner_of(os.getpid(), started=datetime.now(UTC) + jump))


@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=1)], ids=["yesterday", "tomorrow"])
def test_a_dead_process_is_over_whatever_the_clocks_say(living: subprocess.Popen, jump: timedelta) -> None:
    owner = owner_of(living.pid, started=datetime.now(UTC) + jump)
    living.kill()
    living.wait()
    assert process_is_over(owner)


def test_a_process_that_was_killed_and_that_nobody_has_waited_for_is_over(living: subprocess.Popen) -> None:
    owner = owner_of(living.pid)
    living.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, living.pid, os.WEXITED | os.WNOWAIT)
    assert process_is_over(owner)


def test_a_number_that_was_given_again_is_another_process(living: subprocess.Popen) -> None:
    identity = identity_of(living.pid)
    assert identity
    earlier = identity._replace(ticks=identity.ticks - 1)
    assert process_is_over(owner_of(living.pid, process=str(earlier)))


def test_what_ran_before_the_machine_was_restarted_is_over(living: subprocess.Popen) -> None:
    identity = identity_of(living.pid)
    assert identity
    assert process_is_over(owner_of(living.pid, process=str(identity._replace(boot="another"))))


def test_a_process_of_another_machine_or_container_is_never_proven_over_here(living: subprocess.Popen) -> None:
    identity = identity_of(living.pid)
    assert identity
    living.kill()
    living.wait()
    elsewhere = str(identity._replace(namespace="4026530000"))
    for owner in (owner_of(living.pid, host="elsewhere"), owner_of(living.pid, process=elsewhere)):
        assert not on_this_machine(owner)
        assert not process_is_over(owner)


def test_without_the_systems_word_only_a_number_that_nobody_has_proves_an_end(
    living: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "identity_of", lambda _pid: None)
    owner = owner_of(living.pid, process=None)
    assert not process_is_over(owner)
    living.kill()
    living.wait()
    assert process_is_over(owner)


def test_an_identity_is_read_as_it_was_written() -> None:
    identity = identity_of(os.getpid())
    assert identity
    assert ProcessIdentity.parse(str(identity)) == identity
    assert ProcessIdentity.parse("nonsense") is None
    assert ownership.identity_of(2**22 + 1) is None
