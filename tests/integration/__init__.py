"""edgesyncd as a process of its own, and clients that use it for real."""
