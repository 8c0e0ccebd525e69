"""Identities of composed configurations."""

from segpipe.config.plan import Plan
from support.configs import configure


def identity_of(*overrides):
    """Return the identity of the configuration with these overrides."""
    return Plan.of(configure(*overrides)).identity
