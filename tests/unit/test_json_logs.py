"""Each line is one JSON object, whatever a name holds, and bears what it is about."""

import json
import logging
import threading

import pytest

from hyperexport.base.json_logs import VARIABLE, json_logs_wanted
from hyperexport.base.log_context import about
from hyperexport.base.text import one_line
from hyperexport.cli.failures import Failure
from hyperexport.cli.output import Output, OutputFormat, showing_logs
from hyperexport.errors import UsageError, VmNotFound

EVIL = 'db01\n{"level": "INFO"}\x1b[31m\u202e'
logger = logging.getLogger("hyperexport.steps.disks")


def told(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    """What standard error says, line by line; standard output says nothing."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.isascii()
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_line_bears_its_facts_beside_its_message(capsys):
    with showing_logs(Output(OutputFormat.PRETTY, json_logs=True), debug=False):
        with about(run="run-1", vm=EVIL, disk=None), about(disk="Hard disk 1", stage="export-disk"):
            logger.info("%s: moved", EVIL)
        logger.debug("not shown")
        logging.getLogger("prefect.flow_runs").error("not ours")
    (line,) = told(capsys)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "hyperexport.steps.disks",
        "message": one_line(f"{EVIL}: moved"),
        "run": "run-1",
        "vm": EVIL,
        "disk": "Hard disk 1",
        "stage": "export-disk",
    }


def test_a_thread_tells_of_its_own_disk_and_outside_of_a_step_nothing_is_made_up(capsys):
    def move(disk: str) -> None:
        with about(disk=disk):
            logger.warning("moved")

    with showing_logs(Output(OutputFormat.QUIET, json_logs=True), debug=False):
        threads = [threading.Thread(target=move, args=(f"disk {number}",)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logger.info("quiet leaves this out")
        logger.warning("alone")
    lines = told(capsys)
    assert sorted(line.get("disk", "") for line in lines) == ["", "disk 0", "disk 1", "disk 2"]


def test_a_failure_is_a_line_with_its_code_and_with_debug_its_traceback(capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "json")
    failure = Failure(VmNotFound("there is no VM x", fix="Look"), "x")
    failure.report(debug=False)
    failure.report(debug=True)
    short, long = told(capsys)
    assert (short["level"], short["code"], short["vm"]) == ("ERROR", VmNotFound.code, "x")
    assert "exception" not in short
    assert "VmNotFound" in long["exception"]


def test_nothing_is_drawn_between_the_lines(capsys):
    output = Output(OutputFormat.PRETTY, json_logs=True)
    output.errors.print("a bar")
    with output.waiting("waiting for Prefect"):
        pass
    assert told(capsys) == []


def test_a_form_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "xml")
    with pytest.raises(UsageError, match="HYPEREXPORT_LOG_FORMAT"):
        json_logs_wanted()
    for value, wanted in (("", False), ("text", False), ("json", True)):
        monkeypatch.setenv(VARIABLE, value)
        assert json_logs_wanted() is wanted
