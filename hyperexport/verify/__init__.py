"""hyperexport/verify."""
