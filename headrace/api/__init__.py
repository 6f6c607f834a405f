"""HTTP: one router per resource, handlers of a few lines. What they mean is decided in wire and gateway."""
