"""``hyperexport metrics``: the stores for Prometheus."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Group, Parameter

from hyperexport import __version__
from hyperexport.cli.command import Command
from hyperexport.cli.execution import store_runner
from hyperexport.cli.failures import Failure
from hyperexport.cli.flags import CommandLine, Given, store_options
from hyperexport.cli.output import Output
from hyperexport.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_METRICS: Final = Group("Where to", sort_key=1)


@dataclass(frozen=True, kw_only=True)
class Metrics(Command):
    """Show, write or serve the metrics.

    Args:
        listen: The address and port to serve them at.
        textfile: The file to write them to.
    """

    listen: tuple[str, int] | None = None
    textfile: Path | None = None

    def run(self, output: Output) -> list[Failure]:
        """Print the metrics, write them to a file, or serve them until stopped.

        Raises:
            UsageError: The file cannot be written, or the address not listened on.
            StoreUnusable: A store could not be read; the metrics say so, too.
        """
        from hyperexport.jobs.list import stores_of
        from hyperexport.jobs.report import unread_error
        from hyperexport.views import metrics as prometheus

        collector = prometheus.StoreCollector(stores_of(*store_runner(self)), version=__version__)
        if self.listen:
            _listen(prometheus.registry_of(collector), *self.listen, output)
            return []
        if self.textfile:
            try:
                prometheus.write_textfile(collector, self.textfile)
            except OSError as error:
                raise UsageError(f"--textfile: {self.textfile}: {error.strerror or error}") from error
        else:
            output.say(prometheus.as_text(collector).rstrip("\n"))
        if error := unread_error(collector.surveys):
            raise error
        return []


def arguments(
    given: Given,
    *,
    listen: Annotated[
        str | None,
        Parameter(
            metavar="ADDRESS:PORT",
            group=_METRICS,
            help="Serve metrics at this address until stopped, such as :9108.",
        ),
    ] = None,
    textfile: Annotated[
        Path | None,
        Parameter(metavar="FILE", group=_METRICS, help="Write them once, for node_exporter's textfile collector."),
    ] = None,
) -> Metrics:
    """Tell Prometheus what the stores' manifests say; on standard output if nothing else is asked for."""
    if listen and textfile:
        raise UsageError("--listen and --textfile exclude each other", fix="Choose one")
    if textfile and textfile.suffix != ".prom":
        raise UsageError(f"--textfile: node_exporter reads no {textfile.name}", fix="Give it a name that ends in .prom")
    return given.command(Metrics, listen=_address(listen) if listen else None, textfile=textfile)


LINE = CommandLine(arguments, store_options, json=False)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"--listen: {text!r} is not of the form ADDRESS:PORT", fix="Write it as 127.0.0.1:9108")
    return host.strip("[]") or "127.0.0.1", int(port)


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
