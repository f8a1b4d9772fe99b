"""Teachers' features: computed once, kept on disk."""
