"""Public data sets, and the synthetic data set ``shapes``."""
