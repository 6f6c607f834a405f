"""Literal texts as regular expressions in llguidance's dialect."""

from __future__ import annotations


def literal(text: str) -> str:
    r"""An expression that matches only this text. All but ASCII letters and digits is written as `\x{…}`."""
    return "".join(one if one.isascii() and one.isalnum() else f"\\x{{{ord(one):x}}}" for one in text)
