"""Headrace: one OpenAI-compatible server for every model a person can reach. Importing it loads no engine
library.
"""

__version__ = "0.1.0"
