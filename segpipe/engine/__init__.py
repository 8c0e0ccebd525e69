"""The execution of trainings: start, resume, several ranks, sweeps, evaluation and prediction."""
