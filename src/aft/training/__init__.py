"""The loop, the loss of a run, the safety net, the run folder."""
