"""The inference engine: synchronous, one step at a time, token ids in and token ids out. Knows no text and
no HTTP.
"""
