"""The process of one flow run: Prefect's own, whose imports are not searched for garbage."""

import runpy

from hyperexport.base.garbage import spare_imports

if __name__ == "__main__":
    spare_imports()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
