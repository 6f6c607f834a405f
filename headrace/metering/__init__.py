"""What the server counts: metrics, usage, traces."""
