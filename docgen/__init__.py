"""Writes the parts of docs/ that come from the code: `make docs`."""
