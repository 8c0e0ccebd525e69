"""What the parts that a configuration chooses have in common: a class says what its objects are."""

from typing import Any

from torch import nn


class Part(nn.Module):
    """A module for a slot of the network. Class attributes say what it is; all else reads these, and never a name."""

    @classmethod
    def check(cls, **arguments: Any) -> None:
        """Raise UserError for a value that the constructor cannot use.

        arguments: what the configuration gives, by name. It is asked before anything is built. The message begins with
        the argument, ``kernel=3: allowed is ...``: the place in the configuration is put in front of it.
        """
