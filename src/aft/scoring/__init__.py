"""Scores of features for a task, and advice before training."""
