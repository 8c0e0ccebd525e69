"""Checks of the configuration, and the objects that are built from it."""
