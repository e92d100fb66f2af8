"""Costs of edgesync as ratios to a floor that the same run measures on the same machine.

A floor is what the libraries alone take for the work that cannot be left out;
the ratio says what our own code adds, and may be compared between machines, as
microseconds may not. Nothing is asserted: numbers of a busy machine would fail
at random.
"""
