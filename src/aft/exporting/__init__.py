"""Students written in formats that other programs run, and compared with what they come from."""
