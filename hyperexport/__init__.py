"""HyperExport: exports virtual machines from vSphere, in plain Python and as Prefect flows.

What is named here is the public API (``docs/python.md``). It is imported when it is first used, so that importing
the package costs nothing; Prefect only with a flow. A flow that has the name of a function of the Python API is in
:mod:`hyperexport.flows` only.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from hyperexport.api import (
        cleanup_exports,
        convert_export,
        export,
        extract_files,
        incremental_info,
        list_exports,
        list_files,
        list_volumes,
        open_export,
        open_store,
        restore,
        restore_drill,
        serve_disks,
        verify_exports,
        vm_info,
    )
    from hyperexport.errors import HyperExportError
    from hyperexport.flows import check_setup, export_fleet, export_vm, reap_snapshots, restore_vm, send_test_email
    from hyperexport.options.precedence import ExportOptions
    from hyperexport.store.base import Store
    from hyperexport.store.s3 import S3Settings
    from hyperexport.vsphere.endpoint import VSphereEndpoint

    __version__: str

__all__ = [
    "ExportOptions",
    "HyperExportError",
    "S3Settings",
    "Store",
    "VSphereEndpoint",
    "__version__",
    "check_setup",
    "cleanup_exports",
    "convert_export",
    "export",
    "export_fleet",
    "export_vm",
    "extract_files",
    "incremental_info",
    "list_exports",
    "list_files",
    "list_volumes",
    "open_export",
    "open_store",
    "reap_snapshots",
    "restore",
    "restore_drill",
    "restore_vm",
    "send_test_email",
    "serve_disks",
    "verify_exports",
    "vm_info",
]

_HOMES: _typing.Final = {
    "ExportOptions": "options.precedence",
    "HyperExportError": "errors",
    "S3Settings": "store.s3",
    "Store": "store.base",
    "VSphereEndpoint": "vsphere.endpoint",
    **dict.fromkeys(
        ("check_setup", "export_fleet", "export_vm", "reap_snapshots", "restore_vm", "send_test_email"), "flows"
    ),
}
"""Where what is named here is at home; everything else in ``api``."""


def __getattr__(name: str) -> _typing.Any:
    """Import what is asked for, once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: object = _version()
    else:
        value = getattr(_importlib.import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def _version() -> str:
    metadata = _importlib.import_module("importlib.metadata")
    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0.1.0"


def __dir__() -> list[str]:
    """What is offered: neither the modules of this package nor what it imports."""
    return sorted(__all__)
