"""Everything that is said to vSphere: sessions, inventory, snapshots, leases, change tracking, descriptors.

The only room that imports pyVmomi (``endpoint.py``, ``tls.py`` and this file do not, so that reading options never
loads it). It changes nothing on a VM but snapshots, and never touches the bytes of a disk: it hands out URLs.
"""
