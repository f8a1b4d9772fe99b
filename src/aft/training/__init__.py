"""Training: loop, schedule, transfer loss, safety net and run folder."""
