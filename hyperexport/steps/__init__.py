"""Where the engine's parts meet: one function for each step of a job, plain Python.

A step opens what it needs, does one thing, and closes it again. It declares its name and its retries with
:func:`hyperexport.steps.step.step`. What to do, and in which order, is not decided here: plans are made in ``policy/``,
the order is the job's (``hyperexport/jobs/``).
"""
