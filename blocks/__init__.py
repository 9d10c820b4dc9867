"""What Prefect stores for people: credentials and profiles, with their secrets encrypted by Prefect.

A block knows how to become the engine's own values; it never does work itself.
"""

from hyperexport.blocks.export_profile import ExportProfile
from hyperexport.blocks.vsphere_credentials import VSphereCredentials

__all__ = ["ExportProfile", "VSphereCredentials"]
