"""Report of `aft score`."""
