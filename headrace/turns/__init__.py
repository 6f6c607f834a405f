"""Turns: a request on top of stored history, its answer, and the storing of both. This package lies above the
wire and the gateway and below the API; it knows neither HTTP nor SQL.
"""
