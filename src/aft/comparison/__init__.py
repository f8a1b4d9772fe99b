"""Which runs a comparison has, and what their scores show."""
