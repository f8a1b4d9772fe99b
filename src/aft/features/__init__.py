"""Teacher features: computed once and stored on disk."""
