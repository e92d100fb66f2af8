"""Whole boxes in network namespaces of their own, joined by virtual cables."""
