"""hyperexport/report."""
