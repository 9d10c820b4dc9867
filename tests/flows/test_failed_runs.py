"""A run that failed explains itself, in its page and in its log; and its log begins with the options in force."""

import html
import logging
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from hyperexport import errors
from hyperexport.flows import cleanup_exports, export_fleet, export_vm
from hyperexport.options.precedence import ExportOptions
from hyperexport.options.selection import Selection
from hyperexport.results import FleetResult
from hyperexport.simulator import Fault, FaultKind, Simulator
from tests.flows.smtp_server import html_of, smtp_server, text_of
from tests.pages import joined, row


def page(key: str) -> str:
    """The newest artifact of this key."""
    with get_client(sync_client=True) as client:
        only = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=only, sort=ArtifactSort.CREATED_DESC)
    return str(found[0].data)


def options(store: Path, **keys: object) -> ExportOptions:
    return ExportOptions.from_keys({"output": store, "snapshot": True, **keys})


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.name for record in caplog.records if record.exc_info and record.levelno > logging.DEBUG]


def test_a_failed_export_leaves_a_page_with_step_reason_remedy_cleanup_and_command(
    vcenter: Simulator, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vcenter.faults.add(Fault(FaultKind.LEASE_ERROR, times=0, vm="db01"))
    with pytest.raises(errors.HyperExportError) as failed:
        export_vm("db01", options(store, format="ova"))
    told = page("failure-db01")
    assert told.startswith("# export db01 failed")
    assert row(told, "Code")[1] == failed.value.code
    assert row(told, "Step")
    assert failed.value.fix is None or row(told, "What to do")
    assert "was removed" in told.partition("## Cleaned up")[2]
    assert f"hyperexport --vm db01 --output={store} --format=ova --snapshot" in joined(told)
    assert tracebacks(caplog) == []


def test_a_failed_fleet_lists_its_failures_and_how_to_do_only_these_again(
    vcenter: Simulator, store: Path, tmp_path: Path
) -> None:
    with smtp_server(tmp_path) as postbox:
        mail = {"email_notify": True, "email_smtp_host": "127.0.0.1", "email_smtp_port": postbox.port}
        mail |= {"email_tls": "none", "email_from": "export@example.com", "email_to": "admin@example.com"}
        with pytest.raises(errors.FleetFailure) as failed:
            export_fleet(Selection(vm=("db01", "nobody")), options(store, snapshot=False, **mail))
    result = failed.value.fleet
    assert isinstance(result, FleetResult)
    redo = result.redo
    assert redo is not None
    assert "--vm nobody" in redo
    assert "--vm /DC0/vm/db01" in redo
    failure, fleet = page("failure-export-fleet"), page("fleet")
    assert row(failure, "nobody")[1] == "vm-not-found"
    child = next(member.url for member in result.members if member.vm.name == "db01")
    assert row(fleet, f"[/DC0/vm/db01]({child})")[1] == "failed"
    text, page_of_mail = text_of(postbox.only()), html.unescape(html_of(postbox.only()))
    for told in (failure, fleet, text, page_of_mail):
        assert redo in joined(told)
    assert f'href="{child}"' in page_of_mail


def test_a_failure_that_is_of_no_vm_explains_itself_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(errors.HyperExportError):
        cleanup_exports(options(tmp_path / "file" / "store", cleanup_max_count=1))
    assert "# clean up failed" in page("failure-cleanup-exports")


def test_a_defect_keeps_its_traceback_and_says_where_to_look(
    vcenter: Simulator, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("hyperexport.jobs.export.export_vm", broken)
    with pytest.raises(ZeroDivisionError):
        export_vm("db01", options(store))
    assert "Unexpected ZeroDivisionError" in page("failure-db01")
    assert tracebacks(caplog)


def test_the_first_line_of_a_run_says_which_options_are_in_force_and_why(
    vcenter: Simulator, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPEREXPORT_PARALLEL", "2")
    with caplog.at_level(logging.INFO):
        export_vm("db01", options(store))
    ours = [record for record in caplog.records if record.name.startswith("hyperexport")]
    expected = f"options: --output={store} (given), --snapshot (given), --parallel=2 (environment), "
    assert ours[0].getMessage() == expected + "defaults for all others"


def test_steps_that_succeed_log_nothing_of_it_and_other_flows_keep_prefects_lines(
    vcenter: Simulator, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    def theirs() -> None: ...

    @flow
    def somebodys() -> None:
        theirs()

    with caplog.at_level(logging.INFO):
        export_vm("db01", options(store))
        assert "Finished in state Completed()" in [one.getMessage() for one in caplog.records if "flow" in one.name]
        assert "Finished in state Completed()" not in [one.getMessage() for one in caplog.records if "task" in one.name]
        somebodys()
    assert "Finished in state Completed()" in [one.getMessage() for one in caplog.records if "task" in one.name]
