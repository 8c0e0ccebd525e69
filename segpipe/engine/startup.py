"""What a training loads, loaded in less time: the first import of a command that trains, and of one that forks such.

Python's collector rests meanwhile: it would go through a million objects again and again, a fifth of the time, and find
nothing to free. What is loaded stays, so it is put where no later collection looks, nor copies its pages after a fork.
"""

import atexit
import gc

gc.disable()
try:
    from segpipe.training import tracking  # noqa: F401  (W&B before torch: see there)

    # isort: split
    from segpipe.config import plan  # noqa: F401
    from segpipe.training import pretrained  # noqa: F401
finally:
    gc.enable()
gc.freeze()
atexit.register(gc.unfreeze)  # or what takes itself down object by object, triton, would complain of those left over
