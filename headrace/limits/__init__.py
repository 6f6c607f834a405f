"""Limits of API keys: what a request may use is reserved before it starts, and settled when it has ended."""
