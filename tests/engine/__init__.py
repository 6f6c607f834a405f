"""Tests of headrace.engine. `mixes` drives it through random load; `fakes` has a runner made of hashes."""
