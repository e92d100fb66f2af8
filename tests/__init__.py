"""What runs on any computer, unprivileged, on loopback only."""
