"""hyperexport/transfer."""
