"""The flow that proves stored exports again, long after they were made."""

from typing import Annotated

from prefect import flow

from hyperexport.base.display import Listing
from hyperexport.flows.connections import OPTIONS, Profile, options_in_force, s3_settings, stop_signal
from hyperexport.flows.outcome import told_in_words
from hyperexport.options.form import Shown
from hyperexport.options.groups import VerifyMode
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import VerifiedExport
from hyperexport.steps.stores import open_stores
from hyperexport.steps.verification import fail_on_damage, select_exports, verify_selected
from hyperexport.tasks.artifacts import artifact_key, show_table
from hyperexport.tasks.bandwidth import bandwidth_for
from hyperexport.tasks.events import tell_of_damage
from hyperexport.tasks.verify import verify_export


@flow(name="verify-exports", persist_result=False)
@told_in_words
def verify_exports(
    exports: list[str] | None = None,
    options: Annotated[ExportOptions, Shown("destination", "bandwidth", "execution")] = OPTIONS,
    profile: Profile = None,
) -> Listing[VerifiedExport]:
    """Read stored exports back and prove them, in the local store and in S3.

    Args:
        exports: Export ids, or paths that end in them. Every export of the store if empty.
        options: Where the exports are. With verify set to deep, what is in S3 is downloaded.
        profile: A saved export profile, or its name.

    Raises:
        ExportNotFound: One of them is not there.
        VerificationFailed: At least one is damaged; all were looked at first.
    """
    options = options_in_force(options, profile)
    mode = VerifyMode.DEEP if options.execution.verify is VerifyMode.DEEP else VerifyMode.ON
    with stop_signal() as stop, bandwidth_for(options.bandwidth) as throttle:
        stores = open_stores(options.destination, throttle=throttle, stop=stop, s3=s3_settings(options.destination))
        selected = select_exports(stores, exports or [])
        verified = Listing(verify_selected(selected, mode, stop, prove=verify_export, tell=tell_of_damage))
    show_table(artifact_key("verification"), [item.row() for item in verified], "Verified exports")
    fail_on_damage(verified)
    return verified
