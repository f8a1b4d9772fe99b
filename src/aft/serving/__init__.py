"""Answer requests with a trained student; needs the extra ``serve``."""
