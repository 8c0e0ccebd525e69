"""Public data sets, and the shapes that are drawn."""
