"""Turns: a question on stored history, its answer, and what is kept of both. Above the wire and the gateway,
below the API: it knows neither HTTP nor SQL.
"""
