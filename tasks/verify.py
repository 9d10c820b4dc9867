"""Reading back what is stored."""

from hyperexport.base.stop import StopSignal
from hyperexport.options.groups import VerifyMode
from hyperexport.steps import verification
from hyperexport.store.base import Store, StoredExport
from hyperexport.tasks.step import repeatable
from hyperexport.verify import Verification


@repeatable(name="verify-export", task_run_name="verify {export.export_id}")
def verify_export(
    store: Store, export: StoredExport, mode: VerifyMode, stop: StopSignal
) -> tuple[StoredExport, Verification]:
    """Prove that what is stored is what was exported, and note in the manifest what came out."""
    return verification.verify(store, export, mode, stop)
