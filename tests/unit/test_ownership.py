"""A mark is found again in whatever a person has made of a description, and nothing else is taken for one."""

import os
import socket
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperexport.base.machine import this_machine
from hyperexport.model.ownership import Owner

OWNER = Owner(
    run="3f1b", vcenter="vcenter.example.com", vm="4f0e7a52-1111", host="backup1", pid=4242, started=datetime.now(UTC)
)
WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


def test_the_mark_of_this_process_names_its_machine_and_process():
    owner = Owner.of_this_process(run="3f1b", vcenter="vc", vm="4f0e")
    assert (owner.host, owner.pid) == (socket.gethostname(), os.getpid())
    assert owner.started.tzinfo is UTC
    assert not owner.keep


@given(run=WORDS, vcenter=WORDS, host=WORDS, keep=st.booleans())
def test_any_mark_is_found_in_its_description(run: str, vcenter: str, host: str, keep: bool):
    owner = OWNER.model_copy(update={"run": run, "vcenter": vcenter, "host": host, "keep": keep})
    assert Owner.from_description(owner.to_description()) == owner


def test_any_change_of_a_tag_breaks_its_signature():
    machine = this_machine()
    if machine is None:
        pytest.skip("This system has no machine id or no /proc.")
    owner = Owner.of_this_process(run="3f1b", vcenter="vc", vm="4f0e").made_for("snap").announced_in("1")
    assert owner.is_signed_by(machine)
    assert not owner.is_signed_by(machine._replace(key=b"another boot's"))
    for field, value in owner.model_dump().items():
        other = {"pid": 1, "keep": True, "started": datetime(2020, 1, 1, tzinfo=UTC)}.get(field, f"{value}x")
        assert not owner.model_copy(update={field: other}).is_signed_by(machine), field
    assert not owner.model_copy(update={"proof": "é"}).is_signed_by(machine)


@given(before=WORDS, after=WORDS)
def test_a_mark_is_found_between_a_persons_own_words(before: str, after: str):
    assert Owner.from_description(f"{before}{OWNER.to_description()}{after}") == OWNER


def test_brackets_that_a_person_added_do_not_hide_the_mark():
    assert Owner.from_description(OWNER.to_description() + ' keep until {friday} [see {"ticket": 7}]') == OWNER


def test_a_description_says_in_words_what_the_snapshot_is():
    assert OWNER.to_description().startswith("Made by hyperexport for an export; removed by it.")
    kept = OWNER.model_copy(update={"keep": True})
    assert kept.to_description().startswith("Made by hyperexport for an export; kept on purpose.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hyperexport",
        "before the upgrade [hyperexport]",
        "[hyperexport {}]",
        '[hyperexport {"tool": "hyperexport"}]',
        OWNER.to_description()[:-1],
        OWNER.to_description().replace('"tool":"hyperexport"', '"tool":"other"'),
        OWNER.to_description().replace('"pid":4242', '"pid":"many"'),
        OWNER.to_description().replace('"pid":4242', '"pid":4242,"unknown":1'),
        "[hyperexport " + '{"run":[' * 50_000 + "}]",
    ],
)
def test_what_is_no_whole_mark_is_nobodys(text: str):
    assert Owner.from_description(text) is None


@given(st.text() | st.binary())
def test_any_text_is_a_mark_or_none(text: str | bytes):
    assert Owner.from_json(text) is None
    assert Owner.from_description(f"[hyperexport {text!r}]") is None
