"""The inference engine: synchronous, one step at a time, from token ids to token ids. It knows neither text
nor HTTP.
"""
