"""The parts of `speed.py`: each measures one thing beside the limit that it should reach."""
