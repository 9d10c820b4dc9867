"""Who is asked for: what is taken together, from where it comes, and what is refused."""

import pytest

from hyperexport.errors import UsageError
from hyperexport.options.selection import Selection, make_selection, selection_in_force, selection_leaves


def test_a_selection_says_itself_as_the_command_line_would() -> None:
    chosen = Selection(vm=("db 01",), folder=("/DC0/vm/x",), tag=("backup:daily",), match=("web*",))
    assert str(chosen) == "--vm 'db 01' --folder /DC0/vm/x --tag backup:daily --match 'web*'"
    assert str(Selection()) == "nothing"
    assert not Selection()


def test_one_vm_alone_is_told_from_several() -> None:
    assert Selection(vm=("a", "a")).one == "a"
    assert Selection(vm=("a", "b")).one is None
    assert Selection(vm=("a",), match=("*",)).one is None


def test_names_alone_are_a_selection() -> None:
    assert Selection.model_validate(["a", "b"]) == Selection(vm=("a", "b"))
    assert Selection.model_validate({"vm": "a, b"}) == Selection.model_validate("a, b") == Selection(vm=("a, b",))


@pytest.mark.parametrize("leaf", list(selection_leaves()), ids=lambda leaf: leaf.key)
def test_the_environment_chooses_where_nobody_else_does(leaf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"HYPEREXPORT_{leaf.key.upper()}", "a:1,b:2")
    assert selection_in_force(Selection()) == Selection(**{leaf.key: ("a:1", "b:2")})


def test_what_was_given_is_never_widened_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPEREXPORT_FOLDER", "/DC0/vm/production")
    assert selection_in_force(Selection(vm=("db01",))) == Selection(vm=("db01",))


def test_nobody_chosen_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--folder, --tag or --match"):
        selection_in_force(Selection())


@pytest.mark.parametrize("tag", ["daily", ":daily", "backup:"])
def test_a_tag_needs_its_category(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--tag: .*CATEGORY:NAME"):
        make_selection({"tag": (tag,)})
    monkeypatch.setenv("HYPEREXPORT_TAG", tag)
    with pytest.raises(UsageError, match="CATEGORY:NAME"):
        selection_in_force(Selection())
