"""Shared by the tests that were test_sweep.py."""

from segpipe.config.plan import Plan
from support.configs import configure


def identity_of(*overrides):
    return Plan.of(configure(*overrides)).identity
