"""Tests of headrace.models. `tiny.write_tiny` makes the small models that other tests use too."""
