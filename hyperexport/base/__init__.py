"""What every room may use: units, the stop signal, logs, retries, display. Imports no other room."""
