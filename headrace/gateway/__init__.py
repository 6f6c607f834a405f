"""The life of a request between the wire and a backend: authentication, routing, limits, one end."""
