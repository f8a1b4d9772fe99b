"""The page of scores before training."""
