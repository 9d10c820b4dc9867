"""Ctrl-C at any step: a real signal as the step begins, and nothing is left behind.

Three steps are interrupted in a flow, where Prefect's engine sees the signal first: one before there is a snapshot, its
creation, and the last one. At every step the same job is interrupted without Prefect.

The command line turns SIGTERM into the same signal (``cli/interrupts.py``, tested in ``test_cli.py``).
"""

import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

import hyperexport
from hyperexport.flows import export_vm
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import Simulator
from hyperexport.steps import inspect, package, plan, snapshots, verification
from hyperexport.steps import leftovers as leftovers_step
from tests.flows.support import exports_in, leftovers

STEPS = [
    (inspect, "describe", False),
    (plan, "check_exportable", False),
    (leftovers_step, "remove_abandoned_stagings", False),
    (snapshots, "take_snapshot", False),
    (plan, "make_plan", False),
    (package, "export_nvram", False),
    (package, "describe_vm", False),
    (snapshots, "remove_snapshot", False),
    (package, "publish", False),
    (verification, "verify", True),
]
"""Where each step is called, its name, and whether the export is complete by then."""


IN_A_FLOW = ("describe", "take_snapshot", "verify")


@pytest.mark.parametrize(
    ("export", "module", "name", "complete"),
    [
        *(pytest.param(hyperexport.export, *step, id=f"{step[1]}-directly") for step in STEPS),
        *(pytest.param(export_vm, *step, id=f"{step[1]}-flow") for step in STEPS if step[1] in IN_A_FLOW),
    ],
)
def test_an_interruption_at_any_step_leaves_nothing(
    vcenter: Simulator,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    export: Callable[..., object],
    module: Any,
    name: str,
    complete: bool,
) -> None:
    step = getattr(module, name)
    interrupted: list[str] = []

    @wraps(step)
    def interrupt_first(*args: Any, **kwargs: Any) -> Any:
        if not interrupted:
            interrupted.append(name)
            signal.raise_signal(signal.SIGINT)
        return step(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupt_first)
    options = ExportOptions.from_keys({"output": store, "snapshot": True, "verify": True})
    with pytest.raises(KeyboardInterrupt):
        export("db01", options)

    assert interrupted == [name]
    assert leftovers(vcenter, store) == []
    assert len(exports_in(store) if store.exists() else []) == int(complete)
