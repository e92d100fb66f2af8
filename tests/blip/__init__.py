"""Tests of `edgesync.blip`: no socket, no clock."""
