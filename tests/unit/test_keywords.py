"""What editors complete of keyword arguments is what the options model knows."""

import typing
from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from hyperexport.model.restore import RestoreRequest
from hyperexport.options import keywords
from hyperexport.options.precedence import ExportOptions, leaves
from hyperexport.options.selection import Selection

ROOT = Path(__file__).parents[2]


def test_the_option_keywords_are_the_options_in_their_order():
    assert list(typing.get_type_hints(keywords.OptionKeywords)) == [leaf.key for leaf in leaves()]


@pytest.mark.parametrize("group", list(ExportOptions.model_fields))
def test_the_keywords_of_a_group_are_its_options(group):
    typed = getattr(keywords, f"{group.capitalize()}Keywords")
    assert list(typing.get_type_hints(typed)) == [leaf.key for leaf in leaves() if leaf.group == group]


def test_the_keywords_that_choose_vms_and_those_of_a_restore_are_the_fields_of_their_models():
    assert list(typing.get_type_hints(keywords.SelectionKeywords)) == list(Selection.model_fields)
    options = set(typing.get_type_hints(keywords.OptionKeywords))
    restored = set(typing.get_type_hints(keywords.RestoreKeywords))
    assert restored == options | set(RestoreRequest.model_fields)


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.key)
def test_a_keyword_takes_none_exactly_where_the_option_does(leaf):
    typed = typing.get_type_hints(keywords.OptionKeywords)[leaf.key]
    assert (type(None) in typing.get_args(typed)) is (leaf.field.default is None)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ('hyperexport.export("db01", snapshot_q', ["snapshot_quiesce="]),
        ('hyperexport.restore("db01", power', ["power_on="]),
        ("hyperexport.cleanup_exports(cleanup_keep_d", ["cleanup_keep_daily="]),
    ],
)
def test_a_notebook_completes_the_options_of_a_call(typed: str, offered: list[str]) -> None:
    shell = InteractiveShell.instance()
    shell.run_cell("import hyperexport")
    with provisionalcompleter():
        found = [one.text for one in shell.Completer.completions(typed, len(typed))]
    assert found == offered


def test_ipython_still_needs_help_with_flows() -> None:
    """Where this fails, hyperexport/workarounds/flow_completion.py is no longer needed."""
    shell = InteractiveShell.instance()
    shell.run_cell("from hyperexport import export_vm")
    typed = 'export_vm("db01", snapshot_q'
    helpers, shell.Completer.custom_matchers = shell.Completer.custom_matchers, []
    try:
        with provisionalcompleter():
            assert list(shell.Completer.completions(typed, len(typed))) == []
    finally:
        shell.Completer.custom_matchers = helpers
