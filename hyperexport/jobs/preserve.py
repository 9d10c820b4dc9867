"""The job that marks exports as preserved, or takes the mark away."""

from collections.abc import Sequence

from hyperexport.jobs.list import stores_of
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.precedence import ExportOptions
from hyperexport.steps import preservation
from hyperexport.store.base import Store, StoredExport


def preserve(
    run: StepRunner, exports: Sequence[str], options: ExportOptions, *, on: bool
) -> list[tuple[Store, StoredExport]]:
    """Set or take away the mark, in every store that holds the export.

    Raises:
        ExportNotFound: A name fits nothing in any of the stores; nothing was marked.
    """
    return preservation.preserve(stores_of(run, options), exports, on=on)
