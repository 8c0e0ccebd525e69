"""Metrics: counts of each image, and scores computed from the counts."""
