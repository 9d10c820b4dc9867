"""What can go wrong, and the servers at which it does."""

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from hyperexport.simulator import Simulator
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.faults.harness import Victims, victims
from tests.faults.scenes import S3, Form, Scene, vm_spec

VMS = 40


@pytest.fixture(scope="session")
def seed() -> str:
    """What decides every choice: the same seed, the same kills, as far as threads let them."""
    return os.environ.get("HYPEREXPORT_FAULT_SEED", "2026")


@pytest.fixture(scope="session")
def vcenter() -> Generator[Simulator]:
    """One simulated vCenter, with a VM for each scene."""
    with Simulator(tuple(vm_spec(number) for number in range(VMS))) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def fresh(vcenter: Simulator) -> Iterator[str]:
    """Names of VMs that no test has used."""
    return (f"vm-{number}" for number in range(VMS))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    """An object store."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Victims]:
    """Where the processes come from that are killed."""
    with victims(tmp_path_factory.mktemp("victims")) as running:
        yield running


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    vcenter: Simulator,
    fresh: Iterator[str],
    fork_server: Victims,
    tmp_path: Path,
    seed: str,
) -> Callable[..., Scene]:
    """Makes a scene of a form, with a VM of its own."""

    def make(form: Form, **options: object) -> Scene:
        s3 = request.getfixturevalue("s3") if S3 in form.stores else None
        vm = next(fresh)
        return Scene(
            form, simulator=vcenter, vm=vm, victims=fork_server, folder=tmp_path / vm, s3=s3, seed=seed, options=options
        )

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was done to how many runs, summed over all tests and workers."""
    numbers: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for report in (*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())):
        for name, value in getattr(report, "user_properties", ()):
            if name == "kills":
                steps.update(value)
            elif isinstance(value, int):
                numbers[name] += value
    if not steps and not numbers:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(f"seed: {os.environ.get('HYPEREXPORT_FAULT_SEED', '2026')}")
    terminalreporter.write_line(f"kills: {steps.total()}")
    for step, count in sorted(steps.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(f"    {step}: {count}")
    for name, count in sorted(numbers.items()):
        terminalreporter.write_line(f"{name}: {count}")
