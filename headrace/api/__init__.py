"""HTTP: one router per resource, with short handlers; `wire` and `gateway` do the work."""
