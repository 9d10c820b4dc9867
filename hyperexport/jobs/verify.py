"""The job that proves stored exports again, long after they were made."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

from hyperexport.base.display import Listing
from hyperexport.errors import UsageError
from hyperexport.jobs.runner import StepRunner
from hyperexport.options.declaring import VerifyMode
from hyperexport.options.groups import Destination
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import VerifiedExport
from hyperexport.steps import verification
from hyperexport.steps.stores import open_stores
from hyperexport.verify.export import ReadFiles


def verify_exports(
    run: StepRunner, exports: Sequence[str], options: ExportOptions, *, sample: timedelta | None = None
) -> Listing[VerifiedExport]:
    """Read stored exports back and prove them; what came out is noted in their manifests.

    Args:
        run: Carries out the steps.
        exports: Export ids, or paths that end in them. Every export of the stores if empty.
        options: Where the exports are. With ``verify="deep"`` what is in S3 is downloaded.
        sample: Verify a random part, so that all exports are verified within this time if it is repeated each day.

    Raises:
        UsageError: A sample was asked for, and exports were named.
        ExportNotFound: One of them is not there.
        VerificationFailed: At least one is damaged, or one of several stores is empty that was named; all were looked
            at first.
    """
    run.check_options(options)
    if sample is not None and (exports or sample < timedelta(days=1)):
        raise UsageError(
            "--sample takes a day or more, and chooses among all exports", fix="Name none, or leave it out"
        )
    place = options.destination
    mode = VerifyMode.DEEP if options.execution.verify is VerifyMode.DEEP else VerifyMode.ON
    verify_one = partial(run, verification.verify, read=ReadFiles())
    with run.stop_signal() as stop, run.bandwidth(options.bandwidth) as throttle:
        stores = open_stores(place, throttle=throttle, stop=stop, s3=run.s3_settings(place))
        selected = verification.select_exports(stores, exports)
        asked = [found for found in selected if found.store.refers or place.output != Destination().output]
        empty = [found.store for found in asked if not (exports or found.exports or found.damaged)]
        if sample is not None:
            selected = verification.sample_of(selected, mode, within=sample)
        with ExitStack() as stack:
            for store in stores:
                stack.enter_context(store.asking_once())
            verified = Listing(
                verification.verify_selected(selected, mode, stop, verify_one=verify_one, on_damage=run.export_damaged)
            )
    run.show_rows(("verification",), verified, "Verified exports")
    verification.fail_on_damage(verified, empty=empty)
    return verified
