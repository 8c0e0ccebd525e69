"""The base of the parts that a configuration chooses. Each class states its properties as class attributes."""

from typing import Any

from torch import nn


class Part(nn.Module):
    """A module for a slot of the network. Other code reads its class attributes and never compares class names."""

    @classmethod
    def check(cls, **arguments: Any) -> None:
        """Raise UserError for a value that the constructor cannot use.

        arguments: those that the configuration gives, by name. The method is called before any module is built. The
        message must begin with the argument, as ``kernel=3: allowed is ...``: the caller puts the key of the
        configuration in front of it.
        """
