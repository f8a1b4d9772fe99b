"""Backbones: networks from other libraries without their classifier, and their preprocessing."""
