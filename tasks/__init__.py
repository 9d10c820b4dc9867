"""One step each, as a Prefect task: its name, its retries, its log lines, its artifact.

A task is thin: it unpacks, calls the engine once, and reports. What a step does is in ``hyperexport/steps``; in which
order the steps go is in ``flows``.
"""
