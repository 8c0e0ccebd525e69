"""Scores: what is counted of each image, and what is computed from the counts."""
