"""Reading back what is stored."""

from hyperexport.option_groups import VerifyMode
from hyperexport.steps import verification
from hyperexport.stop import StopSignal
from hyperexport.store.base import Store, StoredExport
from hyperexport.verify import Verification
from tasks.step import repeatable


@repeatable(name="verify-export", task_run_name="verify {export.export_id}")
def verify_export(
    store: Store, export: StoredExport, mode: VerifyMode, stop: StopSignal
) -> tuple[StoredExport, Verification]:
    """Prove that what is stored is what was exported, and note in the manifest what came out."""
    return verification.verify(store, export, mode, stop)
