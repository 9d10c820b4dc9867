"""The flow that proves stored exports again, long after they were made."""

from prefect import flow

from flows.connections import s3_settings, stop_signal
from flows.outcome import told_in_words
from hyperexport.errors import VerificationFailed
from hyperexport.options import ExportOptions, VerifyMode, resolve
from hyperexport.results import VerifiedExport
from hyperexport.steps.stores import open_stores
from hyperexport.steps.verification import find_exports
from hyperexport.transfer.throttle import Throttle
from tasks.artifacts import artifact_key, show_table
from tasks.verify import verify_export


@flow(name="verify-exports", persist_result=False)
@told_in_words
def verify_exports(
    exports: list[str] | None = None,
    options: ExportOptions = ExportOptions(),  # noqa: B008
) -> list[VerifiedExport]:
    """Read stored exports back and prove them, in the local store and in S3.

    Args:
        exports: Export ids, or paths that end in them. Every export of the store if empty.
        options: Where the exports are. With verify set to deep, what is in S3 is downloaded.

    Raises:
        ExportNotFound: One of them is not there.
        VerificationFailed: At least one is damaged; all were looked at first.
    """
    options = resolve(options).options
    mode = VerifyMode.DEEP if options.execution.verify is VerifyMode.DEEP else VerifyMode.ON
    throttle = Throttle(options.bandwidth.bytes_per_second, options.bandwidth.burst_bytes)
    verified: list[VerifiedExport] = []
    unreadable: list[str] = []
    with stop_signal() as stop:
        for store in open_stores(
            options.destination, throttle=throttle, stop=stop, s3=s3_settings(options.destination)
        ):
            unreadable += store.damaged() if not exports else []
            for export in find_exports(store, exports or []):
                _, found = verify_export(store, export, mode, stop)
                verified.append(VerifiedExport(location=f"{store.url}/{export}", verification=found))
    show_table(artifact_key("verification"), [item.row() for item in verified], "Verified exports")
    if unreadable:
        raise VerificationFailed(
            f"the manifest of {', '.join(unreadable)} cannot be read",
            fix="Restore export.json from a copy, or remove the export's folder by hand",
        )
    damaged = [item for item in verified if not item.verification.ok]
    if damaged:
        first = damaged[0]
        raise VerificationFailed(
            f"{len(damaged)} of {len(verified)} exports are damaged, such as {first.location}: "
            f"{first.verification.findings[0]}",
            fix="Export the VM again; nothing builds on a damaged export",
        )
    return verified
