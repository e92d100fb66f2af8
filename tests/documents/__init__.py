"""Tests of `edgesync.documents`: no file, no clock."""
