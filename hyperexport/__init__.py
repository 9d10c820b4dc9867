"""The engine: takes virtual machines out of vSphere, in plain Python, with no Prefect in it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hyperexport")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.1.0"
