"""Backends generate answers: each turns a neutral request into neutral events."""
