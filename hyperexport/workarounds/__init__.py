"""What works around Prefect. Each function names the version that needs it.

``tests/unit/test_workarounds.py`` has a test for each that fails when it is no longer needed: then remove it. Seen with
Prefect 3.8.8.
"""
