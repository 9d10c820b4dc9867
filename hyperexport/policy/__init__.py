"""hyperexport/policy."""
