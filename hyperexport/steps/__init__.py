"""Where the engine's parts meet: one function for each step of a job, plain Python.

A step opens what it needs, does one thing, and closes it again. Prefect tasks wrap these functions one by one, and
:func:`hyperexport.export` calls them as they are. What to do, and in which order, is not decided here: plans are made
in ``policy/``, the order is the runbook's (``hyperexport/runbook.py``).
"""
