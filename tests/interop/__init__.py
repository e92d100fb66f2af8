"""Real Couchbase Lite clients against `edgesyncd` as a process of its own."""
