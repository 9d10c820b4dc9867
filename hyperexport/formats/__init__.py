"""hyperexport/formats."""
