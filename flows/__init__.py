"""The jobs: what each opens, has done, shows and tells. One file a flow.

A flow is imported when it is asked for: Prefect describes the parameters of each as a form as it is made, which takes
longer than most of them run.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from hyperexport.flows.report import report
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
    "report",
    "restore_drill",
    "restore_points",
    "restore_vm",
    "send_notice",
    "send_test_email",
    "verify_exports",
    "vm_info",
]


def __getattr__(name: str) -> Any:
    """Import a flow, once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name}"), name)


def __dir__() -> list[str]:
    """Every flow, imported yet or not."""
    return sorted({*globals(), *__all__})


class _Flows(ModuleType):
    """This package. What it has under a flow's name is the flow, never the module that it is in."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Take the flow where the import system sets the module."""
        is_module = name in __all__ and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_module else value)


sys.modules[__name__].__class__ = _Flows
