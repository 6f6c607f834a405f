"""The layer between the network and the app: uvicorn's protocols with limits of size, time and number.

`http` and `websockets` are the two protocols of a connection; `connections` keeps the open ones; `refusals`
writes the errors of requests that do not reach the app; `descriptors` raises the process's limit of open
files.
"""
