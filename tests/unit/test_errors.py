"""Errors survive the way between processes, and each has one name to search for and the right exit code."""

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from hyperexport import errors
from hyperexport.errors import HyperExportError, TransientError
from hyperexport.results import FailureReport
from hyperexport.views.failure import sentence


def family(root: type[HyperExportError] = HyperExportError) -> Iterator[type[HyperExportError]]:
    """Every class of the module, the root first."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


FAMILY = list(dict.fromkeys(family()))
EXIT_CODES = {"UsageError": 2, "PartialFleetFailure": 3, "Interrupted": 130}


def test_the_family_is_the_whole_module():
    assert {kind.__name__ for kind in FAMILY} == {
        name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)
    }


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("fix", [None, "Ask the administrator"])
def test_an_error_is_the_same_after_pickling_and_copying(kind: type[HyperExportError], fix: str | None):
    error = kind("db01 could not be read: no answer", fix=fix)
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is kind
        assert (same.what, same.fix, str(same)) == (error.what, fix, str(error))


@pytest.mark.parametrize("fix", ["Did you mean db01?", "See the log."])
def test_a_sentence_that_has_its_end_gets_no_full_stop(fix: str):
    assert str(errors.VmNotFound("no VM named db02", fix=fix)) == f"no VM named db02. {fix}"


def test_a_message_says_what_failed_and_then_what_to_do():
    error = errors.VmNotFound("no VM is named db1", fix="Look at the names with --vm-info")
    assert str(error) == "no VM is named db1. Look at the names with --vm-info."


def test_a_message_without_a_remedy_is_what_failed():
    assert str(errors.VmNotFound("no VM is named db1")) == "no VM is named db1"


def test_every_error_has_a_name_of_its_own():
    codes = [kind.code for kind in FAMILY]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(kind) for kind in FAMILY)


def test_every_name_can_be_searched_for():
    assert all(code == code.lower() and code.replace("-", "").isalpha() for code in (kind.code for kind in FAMILY))


@pytest.mark.parametrize("kind", FAMILY)
def test_exit_codes_are_those_of_the_contract(kind: type[HyperExportError]):
    assert kind.exit_code == EXIT_CODES.get(kind.__name__, 1)


@pytest.mark.parametrize("kind", FAMILY)
def test_what_may_be_repeated_follows_from_the_type(kind: type[HyperExportError]):
    assert kind.transient is issubclass(kind, TransientError)


@pytest.mark.parametrize("fix", ["Did you mean db01?", "Try again", "Stop!", None])
def test_an_error_and_its_report_never_end_a_sentence_twice(fix):
    error = errors.UsageError("no VM is named db1", fix=fix)
    for words in (str(error), str(FailureReport.of(error)), sentence(error.what), sentence(fix or "x")):
        assert not re.search(r"[.?!][.?!]", words), words
