"""The libraries that read filesystems, imported when they are needed and not before."""

import importlib
from typing import Any

from hyperexport.errors import ToolMissing


def require_libraries() -> None:
    """Find out before a disk is read whether the libraries are installed.

    Raises:
        ToolMissing: One is not.
    """
    for name in ("pytsk3", "pyfsxfs", "pyvslvm"):
        library(name)


def library(name: str) -> Any:
    """One of ``pytsk3``, ``pyfsxfs`` and ``pyvslvm``.

    Raises:
        ToolMissing: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolMissing(
            f"{name} is not installed; files of a guest are read by it", fix="pip install 'hyperexport[files]'"
        ) from error
