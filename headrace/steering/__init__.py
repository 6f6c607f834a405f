"""Steering: edits of a model's hidden states while it computes, and readings of them. Values in, values out;
the runners of `headrace.engine` apply the edits.
"""
