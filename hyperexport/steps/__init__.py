"""hyperexport/steps."""
