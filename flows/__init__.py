"""The jobs: what each opens, has done, shows and tells. One file a flow."""

import hyperexport.report.pages  # noqa: F401 # pyright: ignore[reportUnusedImport] - what is returned shows itself
from flows.check_setup import check_setup
from flows.cleanup_exports import cleanup_exports
from flows.export_fleet import export_fleet
from flows.export_vm import export_vm
from flows.incremental_info import incremental_info
from flows.reap_snapshots import reap_snapshots
from flows.send_notice import send_notice
from flows.send_test_email import send_test_email
from flows.verify_exports import verify_exports
from flows.vm_info import vm_info

__all__ = [
    "check_setup",
    "cleanup_exports",
    "export_fleet",
    "export_vm",
    "incremental_info",
    "reap_snapshots",
    "send_notice",
    "send_test_email",
    "verify_exports",
    "vm_info",
]
