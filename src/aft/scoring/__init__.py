"""What features know about a task, and advice before training."""
