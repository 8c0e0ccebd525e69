"""Differences between networks: estimates, intervals and families of comparisons."""
