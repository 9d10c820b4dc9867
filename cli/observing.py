"""What watches over the exports: the report, the metrics, and Prefect's automations.

Report and metrics read manifests and need no Prefect, unless a saved block or a profile is named.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperexport import __version__
from hyperexport.cli import jobs, quiet, tables
from hyperexport.cli.output import Output
from hyperexport.cli.request import Face, Observing, Request
from hyperexport.errors import StoreUnusable, UsageError
from hyperexport.views.survey import StoreSurvey

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def report(request: Request, output: Output) -> None:
    """Show how well the VMs are protected, and write the page if one was asked for.

    Raises:
        StoreUnusable: A store could not be read; what the others hold is shown all the same.
    """
    observing = _observing(request)
    surveys = jobs.survey_stores(request)
    output.nothing("stores")
    for found in surveys:
        output.answer(
            "stores",
            pretty=lambda console, found=found: tables.show_survey(console, found, observing.rpo),
            quiet=quiet.survey_lines(found, observing.rpo),
            document=_document(found, observing),
        )
    if observing.html:
        _write_page(surveys, observing, observing.html)
        if output.face is Face.PRETTY:
            output.say(f"The page is {observing.html}")
    fail_on_unread(surveys)


def _write_page(surveys: Sequence[StoreSurvey], observing: Observing, path: Path) -> None:
    from hyperexport.views.store_page import store_page

    fresh = path.with_name(f".{path.name}.partial")  # whoever reads sees the old page or the new one
    try:
        fresh.write_text(store_page(surveys, observing.rpo, version=__version__), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise UsageError(f"--html: {path} cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _document(found: StoreSurvey, observing: Observing) -> dict[str, object]:
    """The store for ``--json``: facts of each VM, not its manifests."""
    return {
        "store": found.store,
        "problem": found.problem,
        "taken": found.taken.isoformat(),
        "rpo_seconds": observing.rpo.total_seconds(),
        "stored_bytes": found.stored_bytes,
        "free_bytes": found.free_bytes,
        "unreadable": [str(one) for one in found.unproved],
        "damaged": [one.model_dump(mode="json") for one in found.unproved],
        "vms": [vm.facts(found.taken, observing.rpo) for vm in found.vms],
    }


def fail_on_unread(surveys: Sequence[StoreSurvey]) -> None:
    """Fail where a store could not be read: of what is in it nothing is known.

    Raises:
        StoreUnusable: One could not.
    """
    problems = [f"{found.store}: {found.problem}" for found in surveys if found.problem]
    if problems:
        raise StoreUnusable(f"not every store could be read: {problems[0]}")


def metrics(request: Request, output: Output) -> None:
    """Tell the metrics on standard output, in a file, or to whoever asks at an address.

    Raises:
        UsageError: The file cannot be written, or the address not listened on.
        StoreUnusable: A store could not be read; the metrics say so, too.
    """
    from hyperexport.views import metrics as prometheus

    observing = _observing(request)
    collector = prometheus.StoreCollector(jobs.open_stores(request), version=__version__)
    if observing.listen:
        _listen(prometheus.registry_of(collector), *observing.listen, output)
        return
    if observing.textfile:
        try:
            prometheus.write_textfile(collector, observing.textfile)
        except OSError as error:
            raise UsageError(f"--textfile: {observing.textfile}: {error.strerror or error}") from error
    else:
        output.say(prometheus.as_text(collector).rstrip("\n"))
    fail_on_unread(collector.surveys)


def _listen(registry: "CollectorRegistry", host: str, port: int, output: Output) -> None:
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(f"--listen: {host} port {port}: {error.strerror or error}") from error
    try:
        address = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
        output.say(f"metrics={address}" if output.is_quiet else f"Metrics are at {address}. Ctrl-C ends it.")
        threading.Event().wait()
    except KeyboardInterrupt:  # Ctrl-C, or SIGTERM: to be stopped is how this ends
        pass
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def automations(request: Request, output: Output) -> None:
    """Put the automations in place, list them, or remove them."""
    from hyperexport.blocks.export_profile import load_profile
    from hyperexport.deployments import automations as prefect

    observing = _observing(request)
    output.nothing("automations")
    if observing.action == "create":
        profile = load_profile(request.profile) if request.profile else None
        found = prefect.create(request.options, within=observing.within, profile=profile)
    else:
        found = prefect.remove() if observing.action == "remove" else prefect.automations()
    done = {"create": "created", "remove": "removed"}.get(observing.action or "")
    for automation in found:
        output.answer(
            "automations",
            pretty=lambda _: None,
            quiet=quiet.automation_lines(automation),
            document=automation.model_dump(mode="json"),
        )
    if output.face is Face.PRETTY:
        output.draw(lambda console: tables.show_automations(console, found, done))
        if observing.action == "create":
            output.say("They fire while a Prefect server runs; the mails are sent by hyperexport serve or a worker.")


def _observing(request: Request) -> Observing:
    assert request.observing is not None
    return request.observing
