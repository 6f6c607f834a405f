"""Structured output: turns schemas and grammars into masks of the tokens that may follow."""
