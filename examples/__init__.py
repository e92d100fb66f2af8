"""Short programs that use edgesync, each run by a test."""
