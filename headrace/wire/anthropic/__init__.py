"""Anthropic's Messages dialect, as a client speaks it to us."""
