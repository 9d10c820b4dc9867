"""The jobs: what each opens, has done, shows and tells. One file a flow."""

import hyperexport.views.pages  # noqa: F401 # pyright: ignore[reportUnusedImport] - what is returned shows itself
from hyperexport.flows.check_setup import check_setup
from hyperexport.flows.cleanup_exports import cleanup_exports
from hyperexport.flows.convert_export import convert_export
from hyperexport.flows.export_fleet import export_fleet
from hyperexport.flows.export_vm import export_vm
from hyperexport.flows.incremental_info import incremental_info
from hyperexport.flows.inventory import inventory
from hyperexport.flows.quick_export import quick_export
from hyperexport.flows.reap_snapshots import reap_snapshots
from hyperexport.flows.redo_fleet import redo_fleet
from hyperexport.flows.restore_drill import restore_drill
from hyperexport.flows.restore_points import restore_points
from hyperexport.flows.restore_vm import restore_vm
from hyperexport.flows.send_notice import send_notice
from hyperexport.flows.send_test_email import send_test_email
from hyperexport.flows.verify_exports import verify_exports
from hyperexport.flows.vm_info import vm_info

__all__ = [
    "check_setup",
    "cleanup_exports",
    "convert_export",
    "export_fleet",
    "export_vm",
    "incremental_info",
    "inventory",
    "quick_export",
    "reap_snapshots",
    "redo_fleet",
    "restore_drill",
    "restore_points",
    "restore_vm",
    "send_notice",
    "send_test_email",
    "verify_exports",
    "vm_info",
]
