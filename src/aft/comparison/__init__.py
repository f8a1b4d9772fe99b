"""Comparisons: their runs, statistics, costs and cautions."""
