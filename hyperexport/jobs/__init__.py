"""The jobs: one module each, with the order of its steps and what happens when one fails, written once.

The flow, the Python API and the command line call the same function. Who carries out the steps is the
:class:`~hyperexport.jobs.runner.StepRunner` that the job is given.
"""
