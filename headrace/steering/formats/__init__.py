"""Readers of the formats in which SAEs and control vectors are published. None of them runs code from a file:
pickles are refused.
"""
