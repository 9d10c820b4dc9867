"""Only ``*`` and ``?`` are special in a pattern, and a name given in a list stays whole."""

import pytest

from hyperexport.base.patterns import matches
from hyperexport.options.lists import read_names, write_names
from hyperexport.options.precedence import ExportOptions, resolve
from hyperexport.options.selection import make_selection, selection_from_environment

HOSTILE = (
    "db01 [prod]",
    "[Template] Ubuntu",
    "db01, old",
    "a[!b]",
    "[a-z]",
    "x\\y",
    "a.b",
    "^$",
    "(a|b)",
    "line\nbreak",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_matches_itself_and_with_a_star_or_question_marks(name):
    assert matches(name, name)
    assert matches(f"{name} 2", f"{name}*")
    assert matches(name, "?" * len(name))


@pytest.mark.parametrize(
    ("name", "pattern"), [("a", "[a-z]"), ("ax", "a.?"), ("b", "[!a]"), ("db01", "DB01"), ("db012", "db01"), ("", "?")]
)
def test_nothing_else_is_special_and_case_counts(name, pattern):
    assert not matches(name, pattern)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_given_as_a_list_is_never_split(name):
    assert ExportOptions.from_keys({"cleanup_preserve": [name]}).cleanup.preserve == (name,)
    for key in ("vm", "folder", "match"):
        assert getattr(make_selection({key: [name]}), key) == (name,)
        assert getattr(make_selection({key: name}), key) == (name,)
    assert make_selection({"tag": f"site:{name}"}).tag == (f"site:{name}",)


def test_one_text_is_one_pattern() -> None:
    assert ExportOptions.from_keys({"cleanup_preserve": "db01, old"}).cleanup.preserve == ("db01, old",)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a, b", ("a", "b")),
        (r"db01\, old,web*", ("db01, old", "web*")),
        ('["db01, old", "web*"]', ("db01, old", "web*")),
        ("db01, old\nweb*\n", ("db01, old", "web*")),
        ("[Template] Ubuntu,db*", ("[Template] Ubuntu", "db*")),
    ],
)
def test_the_environment_writes_a_list_as_commas_lines_or_json(monkeypatch, text, names):
    monkeypatch.setenv("HYPEREXPORT_CLEANUP_PRESERVE", text)
    monkeypatch.setenv("HYPEREXPORT_VM", text)
    assert resolve().options.cleanup.preserve == names
    assert selection_from_environment().vm == names


def test_names_are_written_as_they_are_read():
    names = ("db01, old", "web*", "[x]")
    assert read_names(write_names(names)) == names


@pytest.mark.parametrize("given", ["a@x.de,b@x.de", ["a@x.de,b@x.de"], ["a@x.de", "b@x.de"]])
def test_addresses_may_be_given_with_commas_in_every_form(given):
    assert ExportOptions.from_keys({"email_to": given}).email.to == ("a@x.de", "b@x.de")
