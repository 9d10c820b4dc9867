"""One step each, as a Prefect task: its name, its retries, its log lines, its artifact.

What a step does is in ``hyperexport/steps``, in which order the steps go in ``hyperexport/jobs``. A task is made from
its step's own function (``registry.py``) by the runner that a flow hands to its job (``runner.py``).
"""
