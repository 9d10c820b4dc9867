"""Whatever is raised becomes one line with its code, and the exit code that says how much of the work failed."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from hyperexport.cli.command import each_vm
from hyperexport.cli.failures import Failure, exit_code, find_cause
from hyperexport.errors import DiskFull, Interrupted, UsageError, VmNotFound


def wrapped(error: BaseException) -> BaseException:
    try:
        try:
            raise error
        except BaseException as inner:
            raise RuntimeError("the flow run crashed") from inner
    except RuntimeError as outer:
        return outer


def test_our_own_error_is_found_in_what_others_made_of_it():
    error = DiskFull("no room")
    assert find_cause(error) is error
    assert find_cause(wrapped(error)) is error
    assert find_cause(ExceptionGroup("disks", [ValueError(), wrapped(error)])) is error


def test_our_own_error_comes_out_of_a_thread_unchanged():
    def fail() -> None:
        raise VmNotFound("no VM db99")

    with ThreadPoolExecutor() as pool:
        error = pool.submit(fail).exception()
    assert error is not None
    assert Failure(error).code == "vm-not-found"


def test_an_interruption_is_one_however_it_is_wrapped():
    assert isinstance(find_cause(wrapped(KeyboardInterrupt())), Interrupted)
    assert Failure(KeyboardInterrupt()).exit_code == 130


def test_a_prefect_server_that_is_gone_is_told_as_such():
    failure = Failure(wrapped(httpx.ConnectError("connection refused")))
    assert failure.code == "server-unreachable"
    assert "PREFECT_API_URL" in failure.message


def test_what_nobody_foresaw_has_no_cause_and_says_how_to_learn_more():
    failure = Failure(ZeroDivisionError("division by zero"))
    assert failure.cause is None
    assert failure.exit_code == 1
    assert "--debug" in failure.message


def test_an_error_that_causes_itself_does_not_hang():
    error = ValueError()
    error.__context__ = RuntimeError()
    error.__context__.__context__ = error
    assert find_cause(error) is None


def test_a_failure_is_one_line_on_standard_error_with_its_code(capsys):
    Failure(VmNotFound("no VM is named\ndb99", fix="Check the name"), "db99").report(debug=False)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "hyperexport: no VM is named db99. Check the name. [vm-not-found]\n"


def test_a_failure_names_its_vm_where_the_message_does_not(capsys):
    Failure(DiskFull("no room"), "db01").report(debug=False)
    assert capsys.readouterr().err == "hyperexport: db01: no room [disk-full]\n"


def test_a_traceback_is_shown_only_to_whoever_asked(capsys):
    error = wrapped(DiskFull("no room"))
    Failure(error).report(debug=False)
    assert "Traceback" not in capsys.readouterr().err
    Failure(error).report(debug=True)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("errors", "vms", "code"),
    [
        ([], 2, 0),
        ([DiskFull("x")], 1, 1),
        ([UsageError("x")], 1, 2),
        ([DiskFull("x")], 2, 3),
        ([UsageError("x")], 3, 3),
        ([DiskFull("x"), VmNotFound("y")], 2, 1),
        ([UsageError("x"), UsageError("y")], 2, 2),
    ],
)
def test_of_a_command_for_each_vm_the_exit_code_says_how_much_failed(errors, vms, code):
    def act(vm: str) -> None:
        if int(vm) < len(errors):
            raise errors[int(vm)]

    assert exit_code(each_vm([str(number) for number in range(vms)], act, debug=False)) == code
