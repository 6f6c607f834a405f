"""What stands between the network and the app: uvicorn's protocols with limits of size, time and number.

`http` and `websockets` are the two protocols of a connection; `connections` knows all that are open;
`refusals` writes the answer to what never becomes a request; `descriptors` has the process's limit.
"""
