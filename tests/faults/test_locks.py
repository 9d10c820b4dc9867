"""Several runs in processes of their own on one VM: none spoils another, and a holder that is killed holds nothing."""

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import pytest

from hyperexport.model.ownership import Owner
from tests.faults.harness import Outcome, Victims, victims
from tests.faults.invariants import assert_whole
from tests.faults.scenes import FORMS, Form, Scene
from tests.flows.service import eventually

STORES = [form for form in FORMS if form.name in {"local incremental", "streamed to S3 incremental"}]
SLOWLY = {"bandwidth_limit": 1, "bandwidth_burst": 0.1}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[Victims]]:
    """Fork servers, each of which runs one process at a time."""
    with ExitStack() as stack:
        yield [stack.enter_context(victims(tmp_path_factory.mktemp("crowd"))) for _ in range(2)]


class Running:
    """A flow that runs in a process of its own while the test goes on."""

    def __init__(self, scene: Scene, victims: Victims, flow: str, **options: Any) -> None:
        self.outcome: Outcome | None = None
        self._arguments = {"environment": scene.environment, "options": scene.options | options, "vm": scene.vm}
        self._thread = threading.Thread(target=self._run, args=(victims, flow))
        self._thread.start()

    def _run(self, victims: Victims, flow: str) -> None:
        self.outcome = victims.run(flow, **self._arguments)

    def end(self) -> Outcome:
        """Wait for its end."""
        self._thread.join()
        assert self.outcome
        return self.outcome


def owner_on(scene: Scene) -> Owner | None:
    """Whose snapshot is on the VM while its disks are read."""
    marks = (Owner.from_description(text) for _, _, text, _ in scene.simulator.vm(scene.vm).snapshots())
    return next((owner for owner in marks if owner and scene.simulator.leases()), None)


@pytest.mark.parametrize("form", STORES, ids=lambda form: form.name)
def test_the_second_is_told_who_exports_the_vm_and_the_first_goes_on(
    scene: Callable[..., Scene], crowd: list[Victims], form: Form
) -> None:
    at = scene(form)
    guest = at.guest.bytes_now()
    first = Running(at, crowd[0], "export", **SLOWLY)
    holder = eventually(lambda: owner_on(at), "the first's transfer")
    refused = Running(at, crowd[1], "export").end()
    assert (refused.code, refused.exit_code) == ("vm-held", 1)
    for words in (holder.run, holder.host, str(holder.pid), f"{holder.started:%Y-%m-%d %H:%M:%S} UTC"):
        assert words in refused.message
    assert first.end().ok
    (export,) = at.exports()
    assert_whole(next(iter(at.stores.values()))[0], export, guest)
    assert at.leftovers() == []


@pytest.mark.parametrize("form", STORES, ids=lambda form: form.name)
def test_a_holder_that_only_sleeps_is_alive_and_one_that_is_killed_is_not(
    scene: Callable[..., Scene], crowd: list[Victims], form: Form
) -> None:
    at = scene(form)
    first = Running(at, crowd[0], "export", **SLOWLY)
    holder = eventually(lambda: owner_on(at), "the first's transfer")
    os.kill(holder.pid, signal.SIGSTOP)
    assert Running(at, crowd[1], "export").end().code == "vm-held"
    assert not Running(at, crowd[1], "reap").end().code
    assert not at.exports()
    assert owner_on(at) == holder, "the reaper took what was somebody's"

    os.kill(holder.pid, signal.SIGKILL)
    first.end()
    following = Running(at, crowd[1], "export").end()
    assert following.ok, following
    assert at.leftovers() == []
    assert len(at.exports()) == 1


@pytest.mark.faults
@pytest.mark.parametrize("form", STORES, ids=lambda form: form.name)
def test_a_storm_of_exports_and_cleanups_of_one_vm_leaves_only_whole_exports(
    scene: Callable[..., Scene],
    crowd: list[Victims],
    fork_server: Victims,
    form: Form,
    record_property: Callable[[str, object], None],
) -> None:
    at = scene(form)
    guest = at.guest.bytes_now()
    rounds = int(os.environ.get("HYPEREXPORT_FAULT_ROUNDS", "12"))
    outcomes: list[tuple[str, Outcome]] = []

    def keep_running(victims: Victims, flow: str, **options: Any) -> None:
        for _ in range(rounds):
            outcomes.append((flow, Running(at, victims, flow, **options).end()))

    threads = [
        threading.Thread(target=keep_running, args=(crowd[0], "export"), kwargs={"cleanup": False}),
        threading.Thread(target=keep_running, args=(crowd[1], "export"), kwargs={"cleanup_max_count": 1}),
        threading.Thread(target=keep_running, args=(fork_server, "cleanup"), kwargs={"cleanup_max_count": 1}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for flow, outcome in outcomes:
        assert outcome.ok or outcome.code in {"vm-held", "server-busy", "snapshot-failed"}, (flow, outcome)
    done = sum(flow == "export" and outcome.ok for flow, outcome in outcomes)
    assert done >= 2
    store = next(iter(at.stores.values()))[0]
    assert store.exports()
    for export in store.exports():
        assert_whole(store, export, guest)
    assert Running(at, crowd[0], "export").end().ok
    assert at.leftovers() == []
    record_property("exports that were made in storms", done)
    record_property("runs in storms that were told to wait", len(outcomes) - sum(one.ok for _, one in outcomes))
