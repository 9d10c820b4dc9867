"""Variables: the documented ones, the general rule, and misspelt ones, which are named."""

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from hyperexport.options.environment import (
    OTHER_VARIABLES,
    SECRETS,
    unknown_variables,
    variables_table,
    warn_of_unknown_variables,
)
from hyperexport.options.precedence import from_environment, leaves, resolve
from hyperexport.vsphere.endpoint import VSphereEndpoint

DOCUMENTED = {
    "HYPEREXPORT_SMTP_HOST": ("smtp.gmail.com", "email_smtp_host", "smtp.gmail.com"),
    "HYPEREXPORT_SMTP_PORT": ("587", "email_smtp_port", 587),
    "HYPEREXPORT_EMAIL_FROM": ("backups@company.com", "email_from", "backups@company.com"),
    "HYPEREXPORT_EMAIL_TO": ("ops@company.com", "email_to", ("ops@company.com",)),
    "HYPEREXPORT_BANDWIDTH_LIMIT": ("20", "bandwidth_limit", 20.0),
    "HYPEREXPORT_CLEANUP_MAX_AGE": ("720h", "cleanup_max_age", timedelta(days=30)),
    "HYPEREXPORT_CLEANUP_MAX_COUNT": ("30", "cleanup_max_count", 30),
}


def test_the_seven_documented_variables_set_what_they_say(monkeypatch):
    for name, (text, _, _) in DOCUMENTED.items():
        monkeypatch.setenv(name, text)
    assert from_environment() == {key: value for _, key, value in DOCUMENTED.values()}
    resolved = resolve()
    assert {key for key, source in resolved.sources.items() if source == "environment"} == {
        key for _, key, _ in DOCUMENTED.values()
    }
    assert unknown_variables() == {}


def test_the_short_name_of_a_mail_variable_wins_over_the_long_one(monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_EMAIL_SMTP_HOST", "long.example")
    monkeypatch.setenv("HYPEREXPORT_SMTP_HOST", "short.example")
    assert from_environment() == {"email_smtp_host": "short.example"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("HYPEREXPORT_BANDWITH_LIMIT", "HYPEREXPORT_BANDWIDTH_LIMIT"),
        ("HYPEREXPORT_CLEANUP_MAXAGE", "HYPEREXPORT_CLEANUP_MAX_AGE"),
        ("HYPEREXPORT_VSPHERE_USRNAME", "HYPEREXPORT_VSPHERE_USERNAME"),
        ("HYPEREXPORT_ZZZ", None),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest_known_one(name, nearest):
    assert unknown_variables({name: "1", "OTHER": "1"}) == {name: nearest}


def test_every_known_variable_is_known():
    known = [*OTHER_VARIABLES, *(name for leaf in leaves() for name in leaf.environment)]
    assert unknown_variables(dict.fromkeys(known, "1")) == {}


def test_all_misspelt_variables_are_told_in_one_line_without_their_values(monkeypatch, caplog):
    monkeypatch.setenv("HYPEREXPORT_PARALEL", "hunter2")
    monkeypatch.setenv("HYPEREXPORT_ZZZ", "hunter2")
    with caplog.at_level(logging.WARNING):
        warn_of_unknown_variables()
    (record,) = caplog.records
    assert record.getMessage() == (
        "no such option, so it has no effect: HYPEREXPORT_PARALEL (did you mean HYPEREXPORT_PARALLEL?), HYPEREXPORT_ZZZ"
    )


def test_nothing_is_said_where_every_variable_is_known(monkeypatch, caplog):
    monkeypatch.setenv("HYPEREXPORT_PARALLEL", "2")
    warn_of_unknown_variables()
    assert caplog.records == []


def test_the_variables_of_the_server_are_those_that_are_read():
    read = {name for name in OTHER_VARIABLES if name.startswith("HYPEREXPORT_VSPHERE_")}
    fields = {name.removeprefix("HYPEREXPORT_VSPHERE_").lower() for name in read}
    assert fields <= set(VSphereEndpoint.model_fields)
    endpoint = VSphereEndpoint.from_environment(
        {
            "HYPEREXPORT_VSPHERE_URL": "a.example",
            "HYPEREXPORT_VSPHERE_USERNAME": "u",
            "HYPEREXPORT_VSPHERE_PASSWORD": "p",
            "HYPEREXPORT_VSPHERE_CA_FILE": "ca.pem",
            "HYPEREXPORT_VSPHERE_THUMBPRINT": ":".join(["AB"] * 32),
            "HYPEREXPORT_VSPHERE_INSECURE": "true",
            "HYPEREXPORT_VSPHERE_TIMEOUT": "7",
        }
    )
    assert endpoint.model_fields_set == fields


def test_the_documentation_lists_every_variable():
    page = Path(__file__).parents[2] / "docs" / "environment.md"
    assert page.read_text(encoding="utf-8").endswith(variables_table()), (
        "write hyperexport.options.environment.variables_table() to the end of docs/environment.md"
    )


def test_whatever_is_called_a_secret_is_a_variable_that_there_is():
    assert {name for name in SECRETS if name.startswith("HYPEREXPORT_")} <= set(OTHER_VARIABLES)
