"""The programs under measurement, one process each. Only `engine` imports Headrace: peers have their own
interpreter.
"""
