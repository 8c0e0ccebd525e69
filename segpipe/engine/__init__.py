"""A training as a job: begun, resumed, spread over ranks, swept."""
