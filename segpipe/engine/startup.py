"""Fast import of all modules that a training needs. A command that trains, or that forks trainings, imports this first.

Python's garbage collector is disabled during the imports: it would traverse a million objects repeatedly, a fifth of
the time, and free nothing. Afterwards the objects are frozen: the collector ignores them, so memory pages stay shared
after a fork. Before the imports, the standard streams are prepared.
"""

import atexit
import gc

from segpipe import terminal

terminal.prepare()
gc.disable()
try:
    from segpipe.training import tracking  # noqa: F401  (W&B before torch, see its docstring)

    # isort: split
    from segpipe.config import plan  # noqa: F401
    from segpipe.engine import fit, ranks, scheduler, stages  # noqa: F401
finally:
    gc.enable()
gc.freeze()
atexit.register(gc.unfreeze)  # triton frees its objects one by one and would report those that are left
