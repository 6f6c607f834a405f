"""The life of a request between the wire and a backend: who may, where to, and that it ends exactly once."""
