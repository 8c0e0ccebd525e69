"""The report: which differences between the runs of a sweep are significant."""
