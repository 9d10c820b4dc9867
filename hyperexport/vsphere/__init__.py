"""hyperexport/vsphere."""
