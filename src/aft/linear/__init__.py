"""Linear models: the start of some students, and what people would use instead of a student."""
