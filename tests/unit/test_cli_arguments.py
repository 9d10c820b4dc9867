"""The words of a command line become exactly the options that they say, or an error that names the word."""

import inspect
import re
from datetime import timedelta
from enum import Enum
from functools import cache
from typing import Any, Final

import pytest
from cyclopts import CycloptsError
from hypothesis import given as given_by_hypothesis
from hypothesis import settings
from hypothesis import strategies as st

from hyperexport.cli.arguments import COMMANDS, _complete, _explain, build_app, parse
from hyperexport.cli.cleanup import Cleanup
from hyperexport.cli.command import Command
from hyperexport.cli.config import ShowConfig
from hyperexport.cli.export import Export
from hyperexport.cli.help import help_page
from hyperexport.cli.incremental_info import IncrementalInfo
from hyperexport.cli.list import ListExports
from hyperexport.cli.output import OutputFormat
from hyperexport.cli.preserve import Preserve
from hyperexport.cli.profiles import DeleteProfile, ListProfiles, SaveProfile, ShowProfile
from hyperexport.cli.schedules import MakeSchedules
from hyperexport.cli.simulate import Simulate
from hyperexport.cli.verify import Verify
from hyperexport.cli.vm_info import ShowVms
from hyperexport.errors import UsageError
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.precedence import ExportOptions, Leaf, leaves

NEEDS = {
    "bandwidth_burst": ["--bandwidth-limit=1"],
    "keep_local": ["--upload=s3://bucket"],
    "transport": ["--incremental"],
}
"""Options that make sense only together with another."""


def understood(*words: str) -> Any:
    request = parse(words)
    assert request is not None
    return request


def given(*words: str) -> dict[str, object]:
    return understood("--vm", "db01", *words).options.given_keys()


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert caught.value.exit_code == 2
    return str(caught.value)


APP = build_app()


@cache  # it is the same for each option that is looked for in it
def help_text() -> str:
    return help_page(APP, "", COMMANDS, width=240)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_shows_every_flag_that_the_parser_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([command, "--help"] if command else ["--help"]) is None
    page = capsys.readouterr().out
    taken = (APP[command] if command else APP).assemble_argument_collection()
    names = {argument.name for argument in taken if argument.show and argument.name != "--SHELL"}
    flags = {name for name in names if name.startswith("--")}
    assert {name for name in flags if not re.search(rf"^  {name}\b", page, re.MULTILINE)} == set()
    assert set(re.findall(r"^  (--[a-z0-9-]+)", page, re.MULTILINE)) <= names | {"--version"}
    assert [name for name in COMMANDS if not command and not re.search(rf"^  {name} ", page, re.MULTILINE)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_says_of_each_the_first_sentence_of_its_own_help(command: str) -> None:
    assert " ".join(APP[command].help.partition("\n\n")[0].split()) == COMMANDS[command]


def test_help_is_given_wherever_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["verify", "--help"]) is None
    verify = capsys.readouterr().out
    assert "--deep" in verify
    for words in (["--help", "verify"], ["verify", "--deep", "-h"]):
        assert parse(words) is None
        assert capsys.readouterr().out == verify
    assert parse(["--vm", "db01", "--help"]) is None
    assert "Commands" in capsys.readouterr().out


def test_the_short_help_names_every_command_and_every_flag_on_two_screens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert parse(["-h"]) is None
    short = capsys.readouterr().out
    assert parse(["--help"]) is None
    flags = set(re.findall(r"^  (--[a-z0-9-]+|[a-z-]+) ", capsys.readouterr().out, re.MULTILINE))
    assert flags <= set(short.split())
    assert len(short.splitlines()) < 130
    assert max(map(len, short.splitlines())) <= 80


def test_the_help_fits_the_terminal() -> None:
    for width in (60, 80, 100):
        page = help_page(APP, "", COMMANDS, width=width)
        usual = [line for line in page.splitlines() if line.startswith(" " * 8)]
        assert max(map(len, usual)) <= width


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command_fits_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert parse([command, "--help"] if command else ["--help"]) is None
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


_SOME: Final = (
    *("--vm", "db01", "--verify", "--parallel", "--parallel=2", "--no-snapshot", "--snapshot=false", "--quiet", "--"),
    *("--bandwidth-window=mon=5", "--cleanup", "--cleanup-preserve", "a,b", "--profile", "nightly", "--vm-info", "-x"),
    *("--no-such-flag", "--dry_run", "--deep", "--disk", "1", "--to", "raw", "--into", "/x", "--at", ""),
)


@given_by_hypothesis(st.sampled_from(["", *COMMANDS]), st.lists(st.sampled_from(_SOME), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_parser_with_the_flags_that_are_named_understands_what_the_whole_one_does(
    command: str, words: list[str]
) -> None:
    line = [command, *words] if command else words
    if command == "completion":
        return

    def whole() -> object:
        try:
            return APP(
                _complete(line, line[0] if line else ""),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
        except CycloptsError as error:
            return _explain(error, line)[0]
        except UsageError as error:
            return str(error)

    def narrow() -> object:
        try:
            return parse(line)
        except UsageError as error:
            return str(error)

    assert narrow() == whole()


def test_every_command_is_understood_when_only_its_own_flags_are_made() -> None:
    for name in ("list", "config", "report", "metrics", "check", "verify", "reap-snapshots", "schedules", "serve"):
        request = parse([name])
        assert isinstance(request, Command)
        assert type(request).__module__ == f"hyperexport.cli.{name.replace('-', '_')}"


def sample(leaf: Leaf) -> str:
    """A value that is valid, and not the default."""
    default, annotation = leaf.field.default, str(leaf.field.annotation)
    if isinstance(default, Enum):
        return str(list(type(default))[-1].value)
    if isinstance(default, timedelta) or "timedelta" in annotation:
        return "45d"
    if leaf.example:
        return leaf.example
    return "3" if "int" in annotation or "float" in annotation else "word"


# -- every option ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.flag)
def test_every_option_of_the_model_has_a_flag_that_reaches_it_and_only_it(leaf):
    boolean = "bool" in str(leaf.field.annotation)
    words = NEEDS.get(leaf.key, [])
    wanted = [f"{leaf.flag}={str(not leaf.field.default).lower() if boolean else sample(leaf)}"]
    options = understood("--vm", "db01", *words, *wanted).options
    value = getattr(getattr(options, leaf.group), leaf.name)
    assert value != leaf.field.default
    assert set(options.given_keys()) == {leaf.key, *(word[2:].partition("=")[0].replace("-", "_") for word in words)}


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.flag)
def test_the_help_names_every_option_with_its_meaning(leaf):
    text = re.sub(r"\s+", " ", help_text())
    assert re.search(f" {leaf.flag}[ ,]", text)
    assert str(leaf.field.description) in text


def test_the_help_shows_units_defaults_groups_and_the_commands():
    text = help_text()
    for words in ("(MB/s)", "[default: 30d]", "[default: exports]", "ovf|ova", "Snapshot", "Bandwidth", "simulate"):
        assert words in text


# -- kinds of flags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--delete-snapshot", True),
        ("--delete-snapshot=true", True),
        ("--delete-snapshot=false", False),
        ("--no-delete-snapshot", False),
        ("--no-delete-snapshot=true", False),
    ],
)
def test_a_boolean_takes_the_flag_a_value_and_a_negation(word, value):
    assert given(word) == {"delete_snapshot": value}


def test_a_boolean_takes_no_value_after_a_space():
    assert "--snapshot=false" in refusal("--vm", "db01", "--snapshot", "false")


@pytest.mark.parametrize("words", [["--bandwidth-limit", "10"], ["--bandwidth-limit=10"], ["--bandwidth-limit", "1e1"]])
def test_a_number_comes_after_a_space_or_an_equals_sign(words):
    assert given(*words) == {"bandwidth_limit": 10.0}


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], None),
        (["--verify"], VerifyMode.ON),
        (["--verify=deep"], VerifyMode.DEEP),
        (["--verify=false"], VerifyMode.OFF),
    ],
)
def test_verify_stands_alone_or_names_how_deep(words, mode):
    assert given(*words).get("verify") == mode


def test_verify_after_a_space_is_refused_with_the_right_form():
    assert "--verify=deep" in refusal("--vm", "db01", "--verify", "deep")


def test_repeated_vms_keep_their_order_and_lose_doubles():
    assert understood("--vm", "b", "--vm=/DC/vm/a", "--vm", "b").vms == ("b", "/DC/vm/a")


def test_each_flag_holds_one_pattern_commas_included():
    assert given("--cleanup-preserve", "gold*", "--cleanup-preserve=a,b")["cleanup_preserve"] == ("gold*", "a,b")


def test_a_name_with_spaces_and_a_leading_dash_is_taken_as_it_is():
    assert understood("--vm=-odd name").vms == ("-odd name",)


@pytest.mark.parametrize("words", [["--parallel=1", "--parallel=2"], ["--output", "a", "--output", "b"]])
def test_a_single_value_given_twice_is_refused(words):
    assert words[0].partition("=")[0] in refusal("--vm", "db01", *words)


# -- what is set, and what is not --------------------------------------------------------------------------------------


def test_nothing_given_is_nothing_set():
    assert given() == {}


def test_a_default_that_is_given_counts_as_given():
    assert given("--parallel", "4") == {"parallel": 4}


def test_the_environment_completes_what_a_flag_needs(monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_UPLOAD", "s3://bucket/prefix")
    assert given("--no-keep-local") == {"keep_local": False}


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_BANDWIDTH_LIMIT", "20")
    assert given("--bandwidth-limit=10") == {"bandwidth_limit": 10.0}


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_an_unknown_option_is_refused_with_the_nearest_one():
    message = refusal("--vm", "db01", "--bandwith-limit", "10")
    assert "--bandwith-limit" in message
    assert "--bandwidth-limit" in message


@pytest.mark.parametrize(
    "word",
    [
        "--email-notfiy",
        "--password=x",
    ],
)
def test_what_does_not_exist_is_refused_and_not_ignored(word):
    assert word.partition("=")[0] in refusal("--vm", "db01", word)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--keep-snapshots", "-1"], "--keep-snapshots"),
        (["--bandwidth-limit", "fast"], "--bandwidth-limit"),
        (["--full-after", "30"], "--full-after"),
        (["--format", "vhd"], "--format"),
        (["--upload", "bucket/prefix"], "--upload"),
        (["--snapshot=perhaps"], "--snapshot"),
        (["--snapshot-memory", "--snapshot-quiesce"], "memory"),
        (["--no-keep-local"], "--no-keep-local"),
        (["--output"], "--output"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(words, named):
    assert named in refusal("--vm", "db01", *words)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--vm"),
        (["--snapshot"], "--vm"),
        (["--vm-info"], "--vm"),
        (["--vm-info", "--incremental-info", "--vm=a"], "exclude"),
        (["--vm-info", "--vm=a", "--snapshot", "--upload=s3://b"], "--upload, --snapshot"),
        (["--vm=a", "--quiet", "--json"], "exclude"),
        (["--vm=a", "--cleanup=false", "stray"], "stray"),
        (["exprot"], "exprot"),
        (["list", "--bandwidth-limit=1"], "--bandwidth-limit"),
        (["list", "--snapshot"], "--snapshot"),
        (["--vm=a", "--profile="], "--profile"),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *", "--save-profile=p"], "--save-profile"),
        (["simulate", "--port=x"], "--port"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused(words, named):
    assert named in refusal(*words)


def test_an_error_never_shows_the_value_of_an_option_that_does_not_exist():
    assert "hunter2" not in refusal("--vm", "db01", "--smtp-password", "hunter2")


def test_the_mail_servers_password_is_understood_and_no_option():
    request = understood("--vm", "db01", "--email-password", "hunter2")
    assert request.email_password.get_secret_value() == "hunter2"
    assert request.options.given_keys() == {}
    assert "hunter2" not in repr(request)


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--vm=a"], Export),
        (["--vm=a", "--cleanup"], Export),
        (["--vm=a", "--vm-info"], ShowVms),
        (["--vm=a", "--incremental-info", "--upload=s3://b"], IncrementalInfo),
        (["--cleanup", "--cleanup-max-age", "720h"], Cleanup),
        (["verify", "20261123T065304Z-00ff"], Verify),
        (["list", "--output", "x"], ListExports),
        (["--cleanup-dry-run"], Cleanup),
        (["--vm=a", "--cleanup-dry-run"], Export),
        (["preserve", "20261123T065304Z-00ff", "--off"], Preserve),
        (["config", "--parallel=2"], ShowConfig),
        (["--save-profile=p", "--snapshot", "--cleanup"], SaveProfile),
        (["--save-profile=p", "--snapshot", "--vm=a"], Export),
        (["--list-profiles"], ListProfiles),
        (["--show-profile=p"], ShowProfile),
        (["--delete-profile", "p"], DeleteProfile),
        (["simulate", "--port", "0"], Simulate),
        (["--vm=a", "--daemon-schedule=n:0 2 * * *"], MakeSchedules),
    ],
)
def test_the_words_choose_the_command(words, kind):
    assert type(understood(*words)) is kind


def test_cleanup_alone_needs_the_flag_and_not_only_the_environment(monkeypatch):
    monkeypatch.setenv("HYPEREXPORT_CLEANUP", "true")
    assert "--vm" in refusal("--cleanup-max-count", "3")


def test_what_a_profile_may_complete_is_not_refused_at_once():
    assert understood("--vm=a", "--profile=p", "--no-keep-local").options.given_keys() == {"keep_local": False}


def test_preserve_names_the_exports_and_whether_the_mark_is_set():
    assert understood("preserve", "a", "b").exports == ("a", "b")
    assert understood("preserve", "a").on
    assert not understood("preserve", "a", "--off").on
    assert "no export is named" in refusal("preserve")


def test_verify_reads_back_by_default_and_downloads_when_asked():
    assert understood("verify", "a", "b").exports == ("a", "b")
    assert understood("verify", "a").options.execution.verify is VerifyMode.ON
    assert understood("verify", "a", "--deep").options.execution.verify is VerifyMode.DEEP


PLACES = {leaf.key for leaf in leaves() if leaf.group == "destination"} - {"format"}
HEEDED = {
    "verify": PLACES | {leaf.key for leaf in leaves() if leaf.group == "bandwidth"},
    "list": PLACES,
    "preserve": PLACES,
    "reap-snapshots": PLACES | {"dry_run"},
    "report": PLACES,
    "metrics": PLACES,
    "automations": {leaf.key for leaf in leaves() if leaf.group == "email" and not leaf.key.startswith("email_on_")}
    - {"email_notify"},
    "config": {leaf.key for leaf in leaves()},
    "send-test-email": {
        leaf.key for leaf in leaves() if leaf.group == "email" and not leaf.key.startswith("email_on_")
    },
}
"""What each command does something with; whatever else its flow is given by a profile concerns another command."""


@pytest.mark.parametrize("command", HEEDED)
def test_a_command_has_a_flag_for_every_option_that_it_heeds_and_for_no_other(command):
    taken = inspect.signature(build_app()[command].default_command).parameters
    assert {leaf.key for leaf in leaves()} & set(taken) == HEEDED[command]


def test_what_watches_over_the_exports_is_understood():
    report = understood("report", "--html", "a.html", "--rpo", "2d")
    assert (str(report.html), report.rpo) == ("a.html", timedelta(days=2))
    assert understood("metrics", "--listen", ":9108").listen == ("127.0.0.1", 9108)
    assert understood("metrics", "--listen", "[::1]:0").listen == ("::1", 0)
    create = understood("automations", "create", "--within=90m", "--email-to=a@example.com")
    assert (create.action, create.within) == ("create", timedelta(minutes=90))
    assert create.options.given_keys() == {"email_to": ("a@example.com",)}
    assert understood("automations").action == "list"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("report", "--rpo", "yesterday"), "--rpo"),
        (("report", "--rpo", "0"), "--rpo"),
        (("metrics", "--listen", "here"), "--listen"),
        (("metrics", "--listen", ":99999"), "--listen"),
        (("metrics", "--textfile", "hyperexport.txt"), "--textfile"),
        (("metrics", "--listen", ":1", "--textfile", "a.prom"), "--listen and --textfile"),
        (("automations", "delete"), "'delete'"),
        (("automations", "remove", "--email-to=a@example.com"), "automations remove"),
    ],
)
def test_what_makes_no_sense_there_is_named(words, named):
    assert named in refusal(*words)


def test_faces_debug_and_the_block_are_understood():
    request = understood("--vm=a", "--quiet", "--debug", "--vsphere-block", "lab")
    assert (request.output_format, request.debug, request.vsphere) == (OutputFormat.QUIET, True, "lab")
    assert understood("list", "--json").output_format is OutputFormat.JSON
    assert understood("list").output_format is OutputFormat.PRETTY


def test_help_and_version_answer_by_themselves(capsys):
    assert parse(["--version"]) is None
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", capsys.readouterr().out.strip())
    assert parse(["--help"]) is None
    assert "--bandwidth-limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "--vm-info --vm MyVM",
        "--vm-info --vm MyVM --quiet",
        "--vm MyVM --snapshot --delete-snapshot",
        "--vm MyVM --snapshot --snapshot-name pre-migration-backup",
        "--vm MyVM --snapshot --snapshot-memory",
        "--vm MyVM --snapshot --keep-snapshots 5",
        "--vm MyVM --consolidate-snapshots",
        "--vm MyVM --bandwidth-limit 10",
        "--vm MyVM --bandwidth-limit 5 --bandwidth-burst 20",
        "--vm MyVM --bandwidth-limit 10 --upload s3://my-bucket/backups",
        "--vm MyVM --incremental",
        "--vm MyVM --incremental-info",
        "--vm MyVM --force-full",
        "--vm MyVM --incremental --upload s3://my-bucket/backups",
        "--cleanup --cleanup-max-age 720h",
        "--cleanup --cleanup-max-count 10",
        "--cleanup --cleanup-max-size 107374182400",
        "--cleanup --cleanup-dry-run --cleanup-max-age 720h",
        "--cleanup --cleanup-max-age 720h --cleanup-max-count 20",
    ],
)
def test_the_command_lines_that_users_bring_are_understood(line):
    assert isinstance(understood(*line.split()).options, ExportOptions)
