"""/v1/responses as JSON: bodies, the response object, and the events of its stream."""
