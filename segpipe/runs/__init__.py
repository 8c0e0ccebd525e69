"""A run folder: what lies in it, and how it is written and read."""
