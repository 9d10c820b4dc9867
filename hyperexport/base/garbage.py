"""Python's search for garbage, in a process that begins with imports."""

import gc
from typing import Final

_OBJECTS_OF_ALL_IMPORTS: Final = 600_000


def spare_imports() -> None:
    """Look for garbage only among what is made after the imports, which leave none.

    With Prefect they make 600,000 objects, and one look at them takes a fifth of a command's time. The first collection
    passes over all that there is then, for ever, and sets a usual threshold.
    """

    def pass_over(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            gc.callbacks.remove(pass_over)
            gc.freeze()
            gc.set_threshold(20_000, 20, 20)

    gc.callbacks.append(pass_over)
    gc.set_threshold(_OBJECTS_OF_ALL_IMPORTS, 20, 20)
