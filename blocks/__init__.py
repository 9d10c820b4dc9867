"""What Prefect stores for people: credentials and profiles, with their secrets encrypted by Prefect.

A block knows how to become the engine's own values; it never does work itself.
"""

from blocks.export_profile import ExportProfile
from blocks.vsphere_credentials import VSphereCredentials

__all__ = ["ExportProfile", "VSphereCredentials"]
